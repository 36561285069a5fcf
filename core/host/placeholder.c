/* placeholder.c - host placement is not there yet. */
#include "placement/placement.h"

#include <errno.h>

#include "kvm/machine.h"

static bool entered(void)
{
	return false;
}

static int enter(void)
{
	return dune_fail(ENOTSUP, "host placement is not there yet");
}

static int replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	(void)root, (void)edits, (void)count;
	return dune_fail(ENOTSUP, "host placement is not there yet");
}

const struct dune_placement_operations dune_host_operations = {
	.placement = DUNE_PLACEMENT_HOST,
	.enter = enter,
	.entered = entered,
	.replace = replace,
};
