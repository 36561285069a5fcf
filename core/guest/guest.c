/* guest.c - guest placement: dune_enter() and what follows from it. */
#include "placement/placement.h"

#include <errno.h>

#include "kvm/machine.h"

static int enter(void)
{
	return dune_fail(ENOTSUP, "guest placement is being built");
}

static bool entered(void)
{
	return false;
}

const struct dune_placement_operations dune_guest_operations = {
	.placement = DUNE_PLACEMENT_GUEST,
	.enter = enter,
	.entered = entered,
};
