/*
 * address_space_parts.h - what the files of address_space.h share.
 *
 *   address_space.c          making, taking, giving back
 *   address_space_pages.c    entries, private pages, edits by the monitor
 *   address_space_restore.c  what lives have written to, put back
 *   address_space_learn.c    what lives of one shape write to, learned and forgotten
 *   address_space_tags.c     tags mapped in, and taken away
 *   address_space_access.c   page faults; reading and writing by the compartment's rights
 *
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_ADDRESS_SPACE_PARTS_H
#define STHREAD_ADDRESS_SPACE_PARTS_H

#include "address_space.h"

#define USER_DATA (DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE)

extern struct address_space *address_spaces; /* all of them */

/* ---- entries (address_space_pages.c) --------------------------------------------------------------- */

/* The leaf entry for an address, whosever table it is in; NULL if a table on the way is missing. */
uint64_t *space_entry(const struct address_space *space, uint64_t address);
/* The leaf entry for filling in what is the same in every space of the same beginning.  Errors (NULL): ENOMEM. */
uint64_t *space_entry_common(const struct address_space *space, uint64_t address);
/* The leaf entry for an address in a table of the space's own.  Errors (NULL): ENOMEM, EIO. */
uint64_t *space_entry_own(struct address_space *space, uint64_t address);
/* Fills in an entry that is not present, in a table of the space's own.  Errors: ENOMEM, EIO. */
int space_fill(struct address_space *space, uint64_t address, uint64_t value);

/*
 * Gives the space a private page at address with the contents of origin (0: zeros).  answering: a write fault of the
 * compartment is being answered: a present entry may be stored from here.  Otherwise the compartment may have the old
 * translation cached for reading, and the monitor makes the edit.  Errors: ENOMEM, EIO.
 */
int space_make_private(struct address_space *space, uint64_t address, uint64_t origin, bool answering);
/* Says that the supervisor writes, or has written, to a private page: no processor sets its dirty bit for that. */
void space_mark_written(uint64_t *entry);
/* Whether a life may have so many more private pages. */
bool space_within_quota(const struct address_space *space, const struct memory_bounds *bounds, size_t more);
/* Gives back the private pages in [start, end).  Preconditions: the monitor has taken their entries away. */
void space_forget_private(struct address_space *space, uint64_t start, uint64_t end);
/* Takes private pages away from a space that runs nowhere, shows what is there without them, and gives the frames back.
 * wanted says which.  On failure none is given back.  Errors: ENOMEM; EIO, and the space is poisoned. */
int space_give_back(struct address_space *space, bool (*wanted)(const struct address_space *space, size_t page));

/* Edits for the monitor, collected and then made at once. */
struct edit_list {
	struct dune_edit *edits;
	size_t count, room;
};
int edit_list_add(struct edit_list *list, uint64_t *entry, uint64_t value);
/* Makes the edits and empties the list; after a failure the space is poisoned.  Preconditions: the space is not running. */
int edit_list_commit(struct address_space *space, struct edit_list *list);

/* ---- between lives (address_space_learn.c) --------------------------------------------------------- */

/* In a space that has just been restored: gives back the pages that lives have stopped writing to.  Errors: EIO, and the
 * space is poisoned. */
int space_forget_unwritten(struct address_space *space);
/* Takes what was grown beyond a bound away from an idle space and gives the frames back. */
int space_give_back_growth(struct address_space *space);
/* Learns from a life that made private pages of its own which ones lives of its shape write to. */
void space_learn(const struct address_space *space);
/* Says that a life of the shape would have other tags taken away.  Returns whether the shape shall have another address space
 * for that: lives that have other tags again and again, those of this connection or that one, shall not pay for an exit and
 * an edit for each page each time. */
bool space_rebinds_often(uint64_t shape);

/* ---- tags (address_space_tags.c) ------------------------------------------------------------------- */

/* What an entry that leads to a page of a tag says. */
uint64_t space_tag_value(uint64_t physical, int prot);
/* Index in space->tag, -1 if it is not mapped. */
int space_find_tag(const struct address_space *space, tag_t tag);
/* Whether the mapped tags are those of the policy; whether they are among them. */
bool space_maps_tags(const struct address_space *space, const struct policy *policy);
bool space_maps_only_tags(const struct address_space *space, const struct policy *policy);
/* Makes the mapped tags those of the policy: stale ones are revoked first, in one batch. */
int space_bind_tags(struct address_space *space, const struct policy *policy);

/* ---- beginnings (address_space_pages.c) ------------------------------------------------------------ */

/* What the entry of a page says as long as no life has written to it; 0: not present. */
uint64_t space_pristine_value(const struct address_space *space, uint64_t address);
/* Makes an idle space show another pristine state.  After a failure it must not be used.  Errors: EIO. */
int space_rebase(struct address_space *space, struct pristine *pristine);

/* ---- snapshot (address_space.c) -------------------------------------------------------------------- */

/* What an entry that leads to a page of the snapshot says. */
uint64_t space_snapshot_value(const struct snapshot_region *region, uint64_t address);

#endif
