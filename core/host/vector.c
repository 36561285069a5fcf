/* vector.c - the vector state that ring 3 begins with: the caller's. */
#include "host/host.h"

#include <cpuid.h>
#include <string.h>

enum {
	LEGACY_SIZE =
		512, /* FXSAVE's image (Intel SDM vol. 1, 10.5.1), in front of XSAVE's header of 64 bytes (13.4) */
	HEADER_SIZE = 64,
	ST_REGISTERS = 8,
	XMM_REGISTERS = 16
};

/* FXSAVE's image in 64-bit mode. */
struct legacy {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved1;
	uint16_t opcode;
	uint64_t ip, dp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[ST_REGISTERS][16], xmm[XMM_REGISTERS][16];
	uint8_t reserved2[LEGACY_SIZE - 416];
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct legacy) == LEGACY_SIZE, "FXSAVE's image");

size_t dune_host_vector_size(const struct dune_machine *machine)
{
	return machine->vector_size ? machine->vector_size : sizeof(struct kvm_fpu);
}

/* Asked once: CPUID is slow in a virtual machine. */
static bool has_xsave(void)
{
	static int known; /* 1 no, 2 yes */
	unsigned a, b, c, d;
	if (!__atomic_load_n(&known, __ATOMIC_RELAXED))
		__atomic_store_n(&known, __get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE ? 2 : 1, __ATOMIC_RELAXED);
	return known == 2;
}

/* What KVM_SET_FPU takes. */
static void store_legacy(struct kvm_fpu *fpu, const struct legacy *legacy)
{
	memset(fpu, 0, sizeof *fpu);
	memcpy(fpu->fpr, legacy->st, sizeof fpu->fpr);
	memcpy(fpu->xmm, legacy->xmm, sizeof fpu->xmm);
	fpu->fcw = legacy->fcw;
	fpu->fsw = legacy->fsw;
	fpu->ftwx = legacy->ftw;
	fpu->last_opcode = legacy->opcode;
	fpu->last_ip = legacy->ip;
	fpu->last_dp = legacy->dp;
	fpu->mxcsr = legacy->mxcsr;
}

/* What memcpy() may change here has been stored by then. */
void dune_host_capture_vector(const struct dune_machine *machine, void *at)
{
	uint64_t *header = (uint64_t *)((char *)at + LEGACY_SIZE);
	struct legacy legacy;
	if (!machine->vector_size) {
		__asm__ volatile("fxsave64 %0" : "=m"(legacy));
		store_legacy(at, &legacy);
		return;
	}
	for (unsigned i = 0; i < HEADER_SIZE / sizeof *header; i++)
		((volatile uint64_t *)header)[i] = 0;
	if (has_xsave()) {
		uint64_t components = machine->host.vector_components;
		__asm__ volatile("xsave64 (%0)" ::"r"(at), "a"((uint32_t)components), "d"((uint32_t)(components >> 32))
				 : "memory");
	} else {
		__asm__ volatile("fxsave64 (%0)" ::"r"(at) : "memory");
		*header = 3; /* x87, SSE */
	}
}
