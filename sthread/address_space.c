/* address_space.c - making, taking and giving back address spaces.  See address_space.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address_space_parts.h"
#include "local.h"
#include "tag.h"

enum {
	SPACES_BEFORE_SHARING = 64, /* address spaces made before one shape takes over an idle one of another */
	SPACES_FOR_TAGS = 256,      /* and before a shape gets no more for the tags of its lives */
	IDLE_LISTS = 64,
	CANARY_OFFSET =
		0x28, /* of the stack canary from the thread pointer (x86-64 TLS ABI as GCC and glibc have it) */
};

struct address_space *address_spaces;
static struct address_space *idle_spaces[IDLE_LISTS]; /* by shape, the last used first */
static uint64_t space_count;
static uint64_t spaces_prewarmed; /* of them: not to be shared sooner for it */
static uint64_t base_root;        /* snapshot_root(); 0: not made yet */

/* ---- making ---------------------------------------------------------------------------------------- */

uint64_t space_snapshot_value(const struct snapshot_region *region, uint64_t address)
{
	uint64_t frame = region->frames[(address - region->start) / DUNE_PAGE_SIZE];
	return frame | DUNE_PTE_PRESENT | DUNE_PTE_USER | (region->execute ? 0 : DUNE_PTE_NO_EXECUTE) |
	       (region->write ? DUNE_PTE_COPY_ON_WRITE : 0);
}

/* Page tables that show the snapshot as it is; every address space is derived from them.  Never loaded. */
static uint64_t snapshot_root(void)
{
	struct dune_machine *machine = supervisor.machine;
	const struct snapshot *snapshot = &supervisor.snapshot;
	if (base_root)
		return base_root;
	uint64_t made = dune_root_new(machine);
	for (size_t i = 0; made && i < snapshot->count; i++) {
		const struct snapshot_region *region = &snapshot->regions[i];
		for (uint64_t at = region->start; !region->sparse && at < region->end; at += DUNE_PAGE_SIZE) {
			uint64_t *entry = dune_tables_entry(&machine->tables, made, at, true);
			if (!entry)
				return 0; /* the tables are lost, which is safe */
			*entry = space_snapshot_value(region, at);
		}
	}
	return base_root = made;
}

/* The life page, for ring 3 and for the monitor, the page with random bytes, and the one with the canary. */
static int map_special(struct address_space *space)
{
	struct dune_machine *machine = supervisor.machine;
	uint64_t thread_page = supervisor.snapshot.thread_pointer & ~DUNE_PAGE_MASK;
	uint64_t life = dune_frame_new(machine), random = life ? dune_frame_new(machine) : 0;
	if (!random || space_fill(space, machine->window + WINDOW_LIFE, life | USER_DATA) != 0 ||
	    space_fill(space, machine->window + WINDOW_LIFE_MONITOR,
		       life | DUNE_PTE_PRESENT | DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE) != 0 ||
	    space_fill(space, machine->window + WINDOW_RANDOM, random | USER_DATA | DUNE_PTE_WRITE) != 0)
		return dune_fail(ENOMEM, "out of guest memory");
	space->life = dune_physical_at(machine, life);
	space->random = dune_physical_at(machine, random);
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, thread_page);
	if (!region)
		return dune_fail(ENOTSUP, "thread-local storage is not in the snapshot");
	uint64_t origin = region->frames[(thread_page - region->start) / DUNE_PAGE_SIZE];
	if (space_make_private(space, thread_page, origin, false) != 0)
		return -1;
	struct private_page *page = &space->pages[space->page_count - 1];
	page->always = page->stays = true;
	space->canary = (uint8_t *)dune_physical_at(machine, page->frame) +
			(supervisor.snapshot.thread_pointer & DUNE_PAGE_MASK) + CANARY_OFFSET;
	return 0;
}

static struct address_space *make(void)
{
	struct address_space *space = calloc(1, sizeof *space);
	uint64_t base = space ? snapshot_root() : 0;
	if (base && dune_tables_reserve(supervisor.machine, 1) != 0)
		base = 0;
	uint64_t root = base ? dune_tables_derive(&supervisor.machine->tables, base) : 0;
	if (!root) {
		free(space);
		dune_fail(ENOMEM, "no page-table page left");
		return NULL;
	}
	space->context.root = root;
	space->base = base;
	space->pristine = pristine_snapshot();
	pristine_get(space->pristine);
	space->table_pages = 1;
	space->id = ++space_count;
	supervisor.statistics.address_spaces = space_count;
	if (map_special(space) != 0) {
		/* Its tables are lost; they are never reused, which is safe. */
		free(space->pages);
		free(space);
		return NULL;
	}
	space->next = address_spaces;
	address_spaces = space;
	return space;
}

/* ---- taking and giving back ------------------------------------------------------------------------- */

/* How well an idle space fits. */
enum fitness {
	UNFIT = -1,
	OF_ANOTHER_SHAPE,
	RETIRED,         /* it can be rebased; nobody else wants it */
	WITH_OTHER_TAGS, /* which the monitor has to take away */
	WITH_FEWER_TAGS,
	PERFECT
};

static enum fitness fitness(const struct address_space *space, const struct policy *policy,
			    const struct pristine *pristine, uint64_t shape)
{
	if (space->poisoned)
		return UNFIT;
	if (space->pristine != pristine)
		return space->pristine->retired ? RETIRED : OF_ANOTHER_SHAPE;
	if (space->shape != shape)
		return OF_ANOTHER_SHAPE;
	return space_maps_tags(space, policy)      ? PERFECT :
	       space_maps_only_tags(space, policy) ? WITH_FEWER_TAGS :
						     WITH_OTHER_TAGS;
}

/* Where idle spaces of a shape are. */
static unsigned list_of(uint64_t shape)
{
	return (unsigned)(shape * 0x9e3779b97f4a7c15 >> 48) % IDLE_LISTS;
}

static void put_idle(struct address_space *space)
{
	struct address_space **list = &idle_spaces[list_of(space->shape)];
	space->next_idle = *list;
	*list = space;
}

struct search {
	const struct policy *policy;
	const struct pristine *pristine;
	uint64_t shape;
	enum fitness fitness; /* of the best one */
	struct address_space **best;
	unsigned seen;
};

static void search_list(struct search *search, struct address_space **list)
{
	enum {
		LOOK_AT = 64
	};
	for (struct address_space **link = list; *link && search->seen < LOOK_AT && search->fitness < PERFECT;
	     link = &(*link)->next_idle, search->seen++) {
		enum fitness fits = fitness(*link, search->policy, search->pristine, search->shape);
		if (fits > search->fitness) {
			search->fitness = fits;
			search->best = link;
		}
	}
}

/* Finds the idle space that fits best, and no worse than this: one that ran this shape, if possible with the same tags
 * mapped. */
static struct address_space *take_idle(const struct policy *policy, const struct pristine *pristine, uint64_t shape,
				       enum fitness least)
{
	struct search search = { .policy = policy, .pristine = pristine, .shape = shape, .fitness = least - 1 };
	unsigned own = list_of(shape);
	search_list(&search, &idle_spaces[own]);
	search.seen = 0;
	for (unsigned i = 1; i < IDLE_LISTS && least < WITH_OTHER_TAGS && search.fitness < WITH_OTHER_TAGS; i++)
		search_list(&search, &idle_spaces[(own + i) % IDLE_LISTS]);
	if (!search.best)
		return NULL;
	struct address_space *space = *search.best;
	*search.best = space->next_idle;
	return space;
}

/* Whether an idle space that a thread keeps is of use for others. */
struct wanted {
	const struct pristine *pristine;
	uint64_t shape;
	bool any;
};

static bool is_wanted(const struct local_kind *kind, const void *argument)
{
	const struct wanted *wanted = argument;
	return !kind->sthread &&
	       (wanted->any || (kind->space->pristine == wanted->pristine && kind->space->shape == wanted->shape));
}

/* Before one is made, those that threads keep are asked for. */
static struct address_space *take_kept(const struct policy *policy, const struct pristine *pristine, uint64_t shape,
				       enum fitness least)
{
	struct wanted wanted = { .pristine = pristine, .shape = shape };
	if (locals_give_up(is_wanted, &wanted, 1))
		return take_idle(policy, pristine, shape, least);
	wanted.any = true;
	return least == OF_ANOTHER_SHAPE && locals_give_up(is_wanted, &wanted, 1) ?
		       take_idle(policy, pristine, shape, least) :
		       NULL;
}

/* A recycled or new space that shows the state and no others' tags. */
static struct address_space *take(const struct policy *policy, struct pristine *pristine, uint64_t shape,
				  enum fitness least)
{
	struct address_space *space = take_idle(policy, pristine, shape, least);
	if (!space)
		space = take_kept(policy, pristine, shape, least);
	if (space && space_count < SPACES_FOR_TAGS && fitness(space, policy, pristine, shape) == WITH_OTHER_TAGS &&
	    space_rebinds_often(shape)) {
		put_idle(space);
		space = NULL;
	}
	bool made = !space;
	if (made && !(space = make()))
		return NULL;
	space->shape = shape;
	if ((space->pristine != pristine && space_rebase(space, pristine) != 0) ||
	    (made && address_space_prepare(space) != 0)) {
		space->poisoned = true;
		address_space_release(space);
		return NULL;
	}
	return space;
}

/* Found out before an address space is touched: whoever may call a gate can make it begin lives. */
static bool tags_exist(const struct policy *policy)
{
	for (unsigned i = 0; i < policy->tags; i++)
		if (!tag_get(policy->tag[i].tag))
			return dune_fail(EBADF, "the policy names a tag that is gone"), false;
	return true;
}

static struct address_space *take_and_bind(const struct policy *policy, struct pristine *pristine, uint64_t function,
					   enum fitness least)
{
	uint64_t shape = policy_shape(policy) ^ function * 0x9e3779b97f4a7c15;
	if (pristine->page_count)
		shape += (uint64_t)policy->template; /* the same for each state that the template has been in */
	struct address_space *space = tags_exist(policy) ? take(policy, pristine, shape, least) : NULL;
	if (!space)
		return NULL;
	if (space_bind_tags(space, policy) != 0) {
		space->poisoned = true;
		address_space_release(space);
		return NULL;
	}
	return space;
}

struct address_space *address_space_take(const struct policy *policy, struct pristine *pristine, uint64_t function)
{
	bool few = space_count < SPACES_BEFORE_SHARING + spaces_prewarmed;
	return take_and_bind(policy, pristine, function, few ? RETIRED : OF_ANOTHER_SHAPE);
}

struct address_space *address_space_take_own(const struct policy *policy, struct pristine *pristine, uint64_t function)
{
	uint64_t before = space_count;
	struct address_space *space = take_and_bind(policy, pristine, function, WITH_OTHER_TAGS);
	spaces_prewarmed += space_count - before;
	return space;
}

/* What the space has now is what it begins the life with. */
static void note_beginning(struct address_space *space)
{
	space->learned = space->page_count;
	space->tables_before = space->table_pages;
}

static void count_restored(const struct address_space *space, size_t copied)
{
	struct sthread_statistics *statistics = local_statistics();
	statistics->pages_restored += copied;
	statistics->pages_clean += space->page_count - copied;
}

int address_space_restored(struct address_space *space, size_t copied)
{
	if (space->lives) {
		count_restored(space, copied);
		if (space_forget_unwritten(space) != 0)
			return -1;
	}
	note_beginning(space);
	return 0;
}

size_t address_space_renew(struct address_space *space)
{
	size_t copied = address_space_restore(space);
	count_restored(space, copied);
	note_beginning(space);
	return copied;
}

bool address_space_is_current(const struct address_space *space, const struct policy *policy)
{
	return tags_exist(policy) && space_maps_tags(space, policy);
}

void address_space_learn(struct address_space *space)
{
	if (space->page_count > space->learned)
		space_learn(space);
	space->learned = space->page_count;
}

bool address_space_settle(struct address_space *space)
{
	address_space_learn(space);
	if (space->poisoned || space_give_back_growth(space) != 0)
		return false;
	space->learned = space->page_count;
	return true;
}

void address_space_release(struct address_space *space)
{
	if (!address_space_settle(space))
		return; /* never used again; its pages are lost, which is safe */
	put_idle(space);
}

/* The whole page: the last life could write there. */
static int give_random(struct address_space *space, bool quiet)
{
	struct dune_random *random = space->random;
	memset(random, 0, DUNE_PAGE_SIZE);
	if (!quiet || !space->wants_random || supervisor.machine->host.ring0_native)
		return 0; /* or nobody would hand them out */
	random->left = sizeof random->bytes;
	return supervisor_random(random->bytes, sizeof random->bytes);
}

int address_space_begin(struct address_space *space, uint64_t instance, bool quiet_random)
{
	uint64_t canary;
	if (supervisor_random(&canary, sizeof canary) != 0)
		return -1;
	canary &= ~(uint64_t)0xff; /* a zero byte ends string overflows, as glibc does it */
	memcpy(space->canary, &canary, sizeof canary);
	explicit_bzero(&canary, sizeof canary);
	if (give_random(space, quiet_random) != 0)
		return -1;
	space->life->instance = instance;
	space->life->process_id = supervisor_process_id(instance);
	space->life->is_gate = 0;
	space->life->clock_multiplier = 0; /* until it is told the time */
	dune_context_start(&space->context, instance, space->context.root);
	space->context.fs_base = supervisor.snapshot.thread_pointer;
	space->lives++;
	return 0;
}

void address_spaces_forget(void)
{
	for (struct address_space *space = address_spaces, *next; space; space = next) {
		next = space->next;
		dune_context_free(&space->context);
		pristine_put(space->pristine);
		free(space->pages);
		free(space->tag);
		free(space);
	}
	address_spaces = NULL;
	memset(idle_spaces, 0, sizeof idle_spaces);
	space_count = spaces_prewarmed = 0;
	base_root = 0;
	/* The working sets stay: they are addresses, and the snapshot is the same. */
}
