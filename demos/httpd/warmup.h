/*
 * warmup.h - makes OpenSSL, libc and the parser initialise what they initialise on first use.
 */
#ifndef HTTPD_WARMUP_H
#define HTTPD_WARMUP_H

/*
 * Serves requests from memory, with a key made for this and thrown away, through the same code that serves
 * the network.  Call it before compartments_init(): what becomes initialised is then part of the snapshot, and
 * no compartment pays for it again.  Leaves no gate, no key and no TLS context behind.  0 or -1.
 */
int warm_up(void);

#endif
