/* space_pool.c - see space_pool.h */
#include "space_pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct pool pool;

enum {
	TLB_ENTRIES = 1024
};

static struct {
	const ptent_t *root;
	uintptr_t va;
	ptent_t value;
} tlb[TLB_ENTRIES];

static ptent_t *memory, *shadow; /* shadow: what the host remembers of each word of the pool */
static size_t memory_size;
static bool shadowed;

static ptent_t *remembered(const ptent_t *entry)
{
	return &shadow[entry - memory];
}

static size_t slot(const ptent_t *root, uintptr_t va)
{
	return (PPN(va) * 31 + (uintptr_t)root / PGSIZE * 7) % TLB_ENTRIES;
}

static void tell(const ptent_t *root, const struct dune_space_edit *edit)
{
	uint64_t length = pool.fault == POOL_FIRST_PAGE ? PGSIZE : edit->length;
	if (pool.fault == POOL_PLAIN_STORES)
		return;
	*remembered(edit->entry) = 0;
	if (length == PGSIZE) {
		size_t i = slot(root, edit->address);
		if (tlb[i].root == root && tlb[i].va == edit->address)
			tlb[i].root = NULL;
		return;
	}
	for (size_t i = 0; i < TLB_ENTRIES; i++)
		if (tlb[i].root == root && tlb[i].va - edit->address < length)
			tlb[i].root = NULL;
}

/* Whether the page that an entry shows is still in use.  Not so in dead tables that are emptied. */
static void check_kept(ptent_t entry, uint64_t length)
{
	if (shadowed)
		return;
	if (length == PGSIZE || (entry & PTE_P && !(entry & PTE_PS)))
		if (dune_page_isfrompool(PTE_ADDR(entry)) && !(entry & (PTE_MIRROR | DUNE_PTE_SHARED)))
			CU_ASSERT(dune_pa2page(PTE_ADDR(entry))->ref > 0);
}

static int replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	pool.calls++;
	if (pool.fail) {
		errno = EIO;
		return -1;
	}
	for (size_t i = 0; i < count; i++) {
		CU_ASSERT(*edits[i].entry & PTE_P);
		CU_ASSERT(edits[i].address % edits[i].length == 0);
		check_kept(*edits[i].entry, edits[i].length);
		if (pool.late_bits && (edits[i].length == PGSIZE || *edits[i].entry & PTE_PS))
			*edits[i].entry |= pool.late_bits;
		if (pool.fault == POOL_OLD_FORGOTTEN)
			*edits[i].entry = edits[i].value;
		else
			dune_space_store(&edits[i]);
		tell(root, &edits[i]);
	}
	pool.replaced += count;
	return 0;
}

static uint64_t physical(uintptr_t address, int *error)
{
	pool.asked++;
	*error = pool.no_physical;
	return pool.no_physical ? 0 : address + PROCESS;
}

void pool_begin(size_t count, bool shadows, enum pool_fault fault)
{
	static struct dune_space_operations operations = { .replace = replace, .physical = physical };
	memory_size = count * PGSIZE;
	shadowed = shadows;
	memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	shadow = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CU_ASSERT_FATAL(memory != MAP_FAILED && shadow != MAP_FAILED);
	memset(tlb, 0, sizeof tlb);
	pool = (struct pool){ .fault = fault };
	operations.shadowed = shadows && fault != POOL_STALE_TABLES;
	CU_ASSERT_FATAL(dune_space_begin(memory, memory_size, &operations) == 0);
}

void pool_end(void)
{
	munmap(memory, memory_size);
	munmap(shadow, memory_size);
	pgroot = NULL;
}

size_t pool_in_use(void)
{
	size_t count = 0;
	for (int i = 0; i < num_pages; i++)
		count += pages[i].ref != 0;
	return count;
}

static size_t count_tables(const ptent_t *table, unsigned level)
{
	size_t count = 1;
	for (unsigned i = 0; level > 0 && i < NPTENTRIES; i++)
		if (space_is_table(table[i], level) && !(table[i] & DUNE_PTE_SHARED))
			count += count_tables(space_table_at(table[i]), level - 1);
	return count;
}

static void count_root(ptent_t *root, void *argument)
{
	*(size_t *)argument += count_tables(root, ROOT_LEVEL);
}

size_t pool_tables(void)
{
	size_t count = 0;
	dune_space_roots(count_root, &count);
	return count;
}

ptent_t pool_entry(const ptent_t *root, uintptr_t va, unsigned *level)
{
	const ptent_t *table = root;
	for (*level = ROOT_LEVEL;; --*level) {
		ptent_t entry = table[PDX(*level, va)];
		if (!space_is_table(entry, *level))
			return entry;
		table = space_table_at(entry);
	}
}

/* An entry as the processor sees it. */
static ptent_t look(const ptent_t *entry)
{
	if (!shadowed)
		return *entry;
	ptent_t *kept = remembered(entry);
	if (!*kept && *entry & PTE_P)
		*kept = *entry;
	return *kept;
}

ptent_t pool_access(ptent_t *root, uintptr_t va, bool write)
{
	ptent_t *table = root, *entry;
	unsigned level = ROOT_LEVEL;
	va = PGADDR(va);
	for (;; level--) {
		if ((uintptr_t)table - (uintptr_t)memory >= memory_size)
			return (ptent_t)-1; /* a stale entry has led it astray */
		entry = &table[PDX(level, va)];
		ptent_t value = look(entry);
		if (!(value & PTE_P))
			break;
		if (!space_is_table(value, level)) {
			/* A host that shadows leaves these bits right in the guest's entry. */
			if (*entry & PTE_P)
				*entry |= PTE_A | (write ? PTE_D : 0);
			break;
		}
		table = space_table_at(value);
	}
	size_t at = slot(root, va);
	if (tlb[at].root == root && tlb[at].va == va)
		return tlb[at].value;
	ptent_t value = look(entry);
	if (!(value & PTE_P))
		return 0;
	value = (value & ~(PTE_A | PTE_D | PTE_PS) & ~PTE_ADDR(-1)) |
		(space_address(value, level) + (va & (space_span(level) - 1)));
	tlb[at].root = root;
	tlb[at].va = va;
	tlb[at].value = value;
	return value;
}

void pool_spurious_fault(ptent_t *root, uintptr_t va)
{
	unsigned level = ROOT_LEVEL;
	ptent_t *table = root;
	for (;; level--) {
		if ((uintptr_t)table - (uintptr_t)memory >= memory_size)
			return;
		ptent_t *entry = &table[PDX(level, va)];
		if (!space_is_table(look(entry), level)) {
			*remembered(entry) = 0;
			break;
		}
		table = space_table_at(look(entry));
	}
	tlb[slot(root, PGADDR(va))].root = NULL;
}

uint64_t pool_random(void)
{
	static uint64_t state = 88172645463325252u;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}
