/* One batch at a time: its transactions have consecutive nonces, and the next batch's follow from what became
 * of these. */
#include "vd_courier.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VD_COURIER_WAIT_MS = 30000 };

struct vd_courier {
    struct vd_ledger_client *ledger;
    void (*done)(void *arg, const struct vd_ledger_sending *sent);
    void *arg;
    pthread_t thread;
    bool runs;
    pthread_mutex_t mu;
    pthread_cond_t bell;
    bool stopping;
    struct vd_parcel *first, **last;
    size_t n;
};

/* Up to a batch; waits for the first one. 0: stopping, and nothing is left. */
static size_t take(struct vd_courier *c, struct vd_parcel *out[VD_LEDGER_SEND_MAX])
{
    size_t n = 0;
    pthread_mutex_lock(&c->mu);
    while (!c->first && !c->stopping)
        pthread_cond_wait(&c->bell, &c->mu);
    for (; c->first && n < VD_LEDGER_SEND_MAX; n++) {
        out[n] = c->first;
        c->first = c->first->next;
        c->n--;
    }
    if (!c->first)
        c->last = &c->first;
    pthread_mutex_unlock(&c->mu);
    return n;
}

static void *run(void *arg)
{
    struct vd_courier *c = arg;
    struct vd_parcel *p[VD_LEDGER_SEND_MAX];
    size_t n;
    while ((n = take(c, p)) != 0) {
        struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
        memset(s, 0, sizeof s);
        for (size_t i = 0; i < n; i++)
            s[i].tx = &p[i]->tx;
        vd_ledger_client_send_all(c->ledger, s, n, VD_COURIER_WAIT_MS);
        for (size_t i = 0; i < n; i++) {
            c->done(c->arg, &s[i]);
            free(p[i]);
        }
    }
    return NULL;
}

enum vd_err vd_courier_start(struct vd_courier **out, struct vd_ledger_client *ledger,
                             void (*done)(void *arg, const struct vd_ledger_sending *sent), void *arg,
                             struct vd_error *err)
{
    struct vd_courier *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory for a courier");
    *c = (struct vd_courier){.ledger = ledger, .done = done, .arg = arg};
    c->last = &c->first;
    pthread_mutex_init(&c->mu, NULL);
    pthread_cond_init(&c->bell, NULL);
    c->runs = pthread_create(&c->thread, NULL, run, c) == 0;
    if (!c->runs) {
        vd_courier_stop(c);
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    }
    *out = c;
    return VD_OK;
}

bool vd_courier_has_room(struct vd_courier *c)
{
    pthread_mutex_lock(&c->mu);
    bool room = !c->stopping && c->n < VD_COURIER_MAX;
    pthread_mutex_unlock(&c->mu);
    return room;
}

bool vd_courier_give(struct vd_courier *c, struct vd_parcel *p)
{
    pthread_mutex_lock(&c->mu);
    bool room = !c->stopping && c->n < VD_COURIER_MAX;
    if (room) {
        p->next = NULL;
        *c->last = p;
        c->last = &p->next;
        c->n++;
        pthread_cond_signal(&c->bell);
    }
    pthread_mutex_unlock(&c->mu);
    return room;
}

void vd_courier_stop(struct vd_courier *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->mu);
    c->stopping = true;
    pthread_cond_signal(&c->bell);
    pthread_mutex_unlock(&c->mu);
    if (c->runs)
        pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->bell);
    pthread_mutex_destroy(&c->mu);
    free(c);
}
