/* A thread that waits and says what the main thread is doing. It knows no share that is done: the work goes
 * through one call of the engine, and how long it has been is what tells a slow machine from a stuck one. */
#include "vd_cmd_busy.h"

#include "vd_clock.h"

#include <errno.h>
#include <stdarg.h>

static void *vd_busy_main(void *arg)
{
    struct vd_busy *b = arg;
    uint64_t began = vd_clock_ms();
    struct timespec due = vd_clock_after_ms(b->first_ms);
    pthread_mutex_lock(&b->mu);
    while (!b->end) {
        if (pthread_cond_timedwait(&b->cond, &b->mu, &due) != ETIMEDOUT || b->end)
            continue;
        fprintf(b->to, "%s, %llu s so far\n", b->text,
                (unsigned long long)((vd_clock_ms() - began + 500) / 1000));
        due = vd_clock_after_ms(b->next_ms);
    }
    pthread_mutex_unlock(&b->mu);
    return NULL;
}

void vd_busy_begin_on(struct vd_busy *b, FILE *to, unsigned first_ms, unsigned next_ms, const char *text)
{
    pthread_condattr_t a;
    *b = (struct vd_busy){.to = to, .first_ms = first_ms, .next_ms = next_ms};
    snprintf(b->text, sizeof b->text, "%s", text);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&b->cond, &a);
    pthread_condattr_destroy(&a);
    pthread_mutex_init(&b->mu, NULL);
    b->running = pthread_create(&b->thread, NULL, vd_busy_main, b) == 0;
    if (!b->running) {
        pthread_cond_destroy(&b->cond);
        pthread_mutex_destroy(&b->mu);
    }
}

void vd_busy_begin(struct vd_busy *b, const struct vd_cli *cli, const char *fmt, ...)
{
    char text[sizeof b->text];
    va_list ap;
    int n = snprintf(text, sizeof text, "%s: ", cli->path);
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    vd_busy_begin_on(b, stderr, VD_BUSY_FIRST_MS, VD_BUSY_NEXT_MS, text);
}

void vd_busy_hush(struct vd_busy *b)
{
    if (!b->running)
        return;
    pthread_mutex_lock(&b->mu);
    b->end = true;
    pthread_cond_signal(&b->cond);
    pthread_mutex_unlock(&b->mu);
}

void vd_busy_end(struct vd_busy *b)
{
    if (!b->running)
        return;
    vd_busy_hush(b);
    pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->cond);
    pthread_mutex_destroy(&b->mu);
    b->running = false;
}
