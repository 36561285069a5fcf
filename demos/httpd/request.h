/*
 * request.h - the request compartment: parses one request and answers it.  Fresh for every request.
 */
#ifndef HTTPD_REQUEST_H
#define HTTPD_REQUEST_H

#include "compartment.h"

/* The shared memory of this kind is a struct reply_region. */
extern const struct compartment_kind request_kind;

/* The directory that is served.  Call it before compartments_init(). */
void request_set_docroot(int dirfd);

#endif
