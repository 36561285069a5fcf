/*
 * report_operand.c - the address that an instruction would have used.  See report.h.
 *
 * Decodes as much of x86-64 as is needed to find a memory operand: prefixes, opcode map, ModRM, SIB, displacement
 * (Intel SDM vol. 2, chapter 2).  What is not understood has no operand.
 */
#include "report.h"

enum {
	MAP_ONE_BYTE,
	MAP_0F,
	MAP_0F38,
	MAP_0F3A,
	MOD_REGISTER = 3,
	SIB_FOLLOWS = 4,
	NO_INDEX = 4,
	NO_BASE = 5
};

struct reader {
	const uint8_t *code;
	size_t size, at;
	bool failed;
};

struct instruction {
	unsigned rex; /* W 8, R 4, X 2, B 1 */
	int segment;  /* 4 FS, 5 GS, 0 none */
	bool address32;
	bool vector_index; /* EVEX: displacements are scaled */
	unsigned map;
	uint8_t opcode;
};

static uint8_t next(struct reader *reader)
{
	if (reader->at >= reader->size) {
		reader->failed = true;
		return 0;
	}
	return reader->code[reader->at++];
}

static int64_t next_signed(struct reader *reader, unsigned bytes)
{
	uint64_t value = 0;
	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)next(reader) << 8 * i;
	return bytes == 1 ? (int8_t)value : (int32_t)value;
}

/* Registers are numbered as instructions do. */
static uint64_t value_of(const uint64_t *registers, unsigned number)
{
	static const uint8_t places[] = { REPORT_RAX, REPORT_RCX, REPORT_RDX, REPORT_RBX,
					  REPORT_RSP, REPORT_RBP, REPORT_RSI, REPORT_RDI };
	return registers[number < 8 ? places[number] : REPORT_R8 + number - 8];
}

static uint8_t read_prefixes(struct reader *reader, struct instruction *instruction)
{
	for (;;) {
		uint8_t byte = next(reader);
		switch (reader->failed ? 0 : byte) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x66:
		case 0xf0:
		case 0xf2:
		case 0xf3:
			break;
		case 0x64:
		case 0x65:
			instruction->segment = byte & 0xf;
			break;
		case 0x67:
			instruction->address32 = true;
			break;
		default:
			if ((byte & 0xf0) != 0x40 || reader->failed)
				return byte;
			instruction->rex = byte & 0xf;
			return next(reader);
		}
	}
}

/* Reads prefixes and opcode; VEX and EVEX are taken for what they stand for. */
static void read_opcode(struct reader *reader, struct instruction *instruction)
{
	uint8_t byte = read_prefixes(reader, instruction);
	if (byte == 0xc5 || byte == 0xc4 || byte == 0x62) {
		uint8_t first = next(reader);
		instruction->map = byte == 0xc5 ? MAP_0F : first & (byte == 0x62 ? 7 : 0x1f);
		instruction->rex = (byte == 0xc5 ? 0 : ~first >> 5 & 3) | (~first >> 5 & 4);
		if (byte != 0xc5)
			next(reader);
		if (byte == 0x62)
			next(reader);
		instruction->vector_index = byte == 0x62;
		instruction->opcode = next(reader);
		if (instruction->map == MAP_ONE_BYTE || instruction->map > MAP_0F3A)
			reader->failed = true;
		return;
	}
	instruction->map = MAP_ONE_BYTE;
	if (byte == 0x0f) {
		byte = next(reader);
		instruction->map = byte == 0x38 ? MAP_0F38 : byte == 0x3a ? MAP_0F3A : MAP_0F;
		if (instruction->map != MAP_0F)
			byte = next(reader);
	}
	instruction->opcode = byte;
}

static bool has_modrm(const struct instruction *instruction)
{
	uint8_t opcode = instruction->opcode;
	switch (instruction->map) {
	case MAP_ONE_BYTE:
		return (opcode < 0x40 && (opcode & 7) < 4) || opcode == 0x63 || opcode == 0x69 || opcode == 0x6b ||
		       (opcode & 0xf0) == 0x80 || opcode == 0xc0 || opcode == 0xc1 || opcode == 0xc6 ||
		       opcode == 0xc7 || (opcode & 0xfc) == 0xd0 || (opcode & 0xf8) == 0xd8 || opcode == 0xf6 ||
		       opcode == 0xf7 || opcode == 0xfe || opcode == 0xff;
	case MAP_0F:
		return opcode != 0x05 && opcode != 0x0b && !(opcode >= 0x30 && opcode < 0x38) && opcode != 0x77 &&
		       (opcode & 0xf0) != 0x80 && !(opcode >= 0xa0 && opcode < 0xa3) &&
		       !(opcode >= 0xa8 && opcode < 0xab) && !(opcode >= 0xc8 && opcode < 0xd0);
	default:
		return true;
	}
}

static bool memory_operand(struct reader *reader, const struct instruction *instruction, const uint64_t *registers,
			   uint8_t modrm, uint64_t *address)
{
	unsigned mod = modrm >> 6, base = modrm & 7;
	bool has_base = true;
	uint64_t sum = 0;
	if (base == SIB_FOLLOWS) {
		uint8_t sib = next(reader);
		unsigned index = (sib >> 3 & 7) | (instruction->rex & 2) << 2;
		base = sib & 7;
		has_base = !(base == NO_BASE && mod == 0);
		if (index != NO_INDEX)
			sum = value_of(registers, index) << (sib >> 6);
	} else if (base == NO_BASE && mod == 0) {
		return false; /* relative to RIP: always near */
	}
	if (has_base)
		sum += value_of(registers, base | (instruction->rex & 1) << 3);
	int64_t displacement = mod == 1 ? next_signed(reader, 1) : mod == 2 || !has_base ? next_signed(reader, 4) : 0;
	if (instruction->vector_index && mod == 1)
		displacement = 0; /* scaled by a factor that depends on the instruction: near enough */
	*address = sum + (uint64_t)displacement;
	return !reader->failed;
}

static bool without_modrm(const struct instruction *instruction, const uint64_t *registers, uint64_t *address,
			  bool *execute)
{
	uint8_t opcode = instruction->opcode;
	if (instruction->map != MAP_ONE_BYTE)
		return false;
	switch (opcode) {
	case 0xc2:
	case 0xc3: /* RET: what it jumps to is on the stack */
		*execute = true;
		*address = registers[REPORT_RSP];
		return true;
	case 0xa4: /* MOVS, CMPS, LODS: the source, if that is the bad one */
	case 0xa5:
	case 0xa6:
	case 0xa7:
	case 0xac:
	case 0xad:
		*address = registers[REPORT_RSI];
		if (opcode >= 0xac || *address + DUNE_USER_END >= 2 * DUNE_USER_END)
			return true;
		/* fall through */
	case 0xaa: /* STOS, SCAS */
	case 0xab:
	case 0xae:
	case 0xaf:
		*address = registers[REPORT_RDI];
		return true;
	default:
		break;
	}
	if ((opcode & 0xf0) == 0x50 || opcode == 0x68 || opcode == 0x6a || opcode == 0xe8 || opcode == 0xc9) {
		*address = registers[opcode == 0xc9 ? REPORT_RBP : REPORT_RSP]; /* PUSH, POP, CALL; LEAVE */
		return true;
	}
	return false;
}

bool report_operand(const uint8_t *code, size_t size, const uint64_t *registers, uint64_t fs_base, uint64_t gs_base,
		    uint64_t *address, bool *execute)
{
	struct reader reader = { code, size, 0, false };
	struct instruction instruction = { 0 };
	*execute = false;
	read_opcode(&reader, &instruction);
	if (reader.failed)
		return false;
	if (!has_modrm(&instruction))
		return without_modrm(&instruction, registers, address, execute);
	uint8_t modrm = next(&reader);
	if (reader.failed)
		return false;
	unsigned group = modrm >> 3 & 7;
	if (modrm >> 6 == MOD_REGISTER) {
		if (instruction.map != MAP_ONE_BYTE || instruction.opcode != 0xff || (group != 2 && group != 4))
			return false;
		*execute = true; /* CALL or JMP to what the register says */
		*address = value_of(registers, (modrm & 7) | (instruction.rex & 1) << 3);
		return true;
	}
	if (!memory_operand(&reader, &instruction, registers, modrm, address))
		return false;
	if (instruction.address32)
		*address = (uint32_t)*address;
	*address += instruction.segment == 4 ? fs_base : instruction.segment == 5 ? gs_base : 0;
	return true;
}
