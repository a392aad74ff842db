/* `veridem up`: a whole network at home. Ledger, gateway, worker and verifier run as child processes of this
 * one, each the same command that a network of many machines runs, each with a home of its own under `home`:
 *
 *     <home>/genesis.json   made on the first start: one account per role
 *     <home>/<role>/        the role's home: keys, state, ports.json
 *     <home>/log/<role>.log what the role says
 *     <home>/api-key        made on the first start, 0600
 *
 * A child that ends by itself ends the network: the reason is taken from its log. Children die with this
 * process, however it dies.
 *
 * Thread rule: one per process, from the main thread; it takes SIGINT, SIGTERM and SIGCHLD for itself. */
#ifndef VD_UP_H
#define VD_UP_H

#include "vd_err.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct vd_up_config {
    const char *program; /* the veridem binary, for the children */
    const char *home;    /* absolute */
    const char *model;   /* path of the model */
    const char *http;    /* "127.0.0.1:8080": where clients ask; port 0: the system chooses */
    uint32_t threads;    /* of the worker; 0: one per CPU */
    bool json;           /* the banner as one JSON line */
    FILE *out;           /* the banner; progress goes to stderr */
};

/* Starts all, prints the banner, and returns when SIGINT or SIGTERM came and everything has stopped.
 * VD_EBUSY: another process holds this home. Else the error of the role that could not start or that ended.
 */
enum vd_err vd_up_run(const struct vd_up_config *config, struct vd_error *err);

#endif
