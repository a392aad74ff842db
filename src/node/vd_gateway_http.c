/* The HTTP side: libmicrohttpd with a thread per connection, because an answer takes seconds and code that
 * waits reads from top to bottom; the connections are limited, in all, for each address, and in the time that
 * a request may take to arrive (vd_gateway_guard.c). At the end no new ones are taken, and those under way
 * are answered or told why not before the rest is cut.
 *
 * A request is refused as early as it can be: a wrong key and a body that says it is too large before the
 * body is read. A body without a length is dropped, not kept, from the limit on. A stream's first byte is
 * sent when there is text, so that what fails before has a status code; what fails later is an error event.
 *
 * A client that hangs up cancels its answers. One that hangs up before it got anything may be about to retry:
 * then an answer that can be kept for the retry is finished (vd_gateway_once.c). */
#include "vd_clock.h"
#include "vd_gateway_impl.h"
#include "vd_openai_embed.h"
#include "vd_listen_tcp.h"
#include "vd_tool_call.h"

#include <errno.h>
#include <jansson.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    IDLE_TIMEOUT_S = 120,
    CONNECTION_MEMORY_BYTES = 64 << 10,
    DROP_MAX_BYTES = 16 << 20, /* of a body that is too large, then the connection is closed */
    DRAIN_MS = 5000,           /* for the responses under way to end, once the gateway stops */
    DRAIN_POLL_MS = 10,
    STREAM_BLOCK_BYTES = 16 << 10,
    IDEMPOTENCY_KEY_MAX = 255,
    MODELS_TEXT_MAX = 300,
};

struct gw_http {
    struct vd_gateway *g;
    struct MHD_Daemon *daemon;
    struct gw_guard *guard;
    uint16_t port;
    atomic_uint n_calls; /* requests whose response has not been sent to its end */
};

enum choice_state { S_ROLE, S_TEXT, S_CALLS, S_REST, S_FINISH, S_OVER };
enum stream_state { S_CHOICES, S_USAGE, S_DONE, S_END };

/* One answer of a request. */
struct choice {
    struct gw_answer answer;
    bool running, done; /* the answer is to be freed; its receipt is there */
    char receipt[2 * VD_HASH_BYTES + 1];
    enum choice_state state;
    size_t n_sent;                         /* bytes of the text that are in chunks */
    struct vd_gateway_text_place logprobs; /* up to there they are in chunks */
    struct vd_tool_scan scan;              /* of the text so far, if there may be tool calls */
    struct vd_tool_answer read;            /* of the whole answer; calls owned */
};

/* A request, from its headers to the last byte of its response. */
struct call {
    struct vd_gateway *g;
    struct MHD_Connection *connection;
    struct gw_guest *guest;
    enum vd_openai_kind kind;
    const char *path;
    struct gw_query query;
    bool is_post, answered;
    struct vd_api_key key;
    bool admitted; /* counted in the key's use */
    uint8_t *body;
    size_t n_body, cap_body, n_dropped;
    bool refused; /* by its head: the body is dropped, then comes the refusal */
    struct vd_openai_error refusal;

    struct vd_openai_request request;
    struct gw_once once;
    bool entered, explicit_key;
    struct choice *choice;     /* owned; NULL in a replay */
    struct gw_answer **answer; /* of each; owned */
    uint32_t n_choices;
    struct gw_siblings siblings;
    bool begun; /* the response has begun */
    bool gone;  /* the client hung up */
    bool replay;
    struct vd_gwstore_once kept; /* replay: the earlier answer, text owned */

    char id[64], model[128], receipt[2 * VD_HASH_BYTES + 1];
    uint64_t created_s;
    enum stream_state state;
    uint32_t turn; /* the choice that has chunks first */
    size_t which;  /* the choice to which something happened last */
    bool tools;    /* the answers may have tool calls */
    struct vd_openai_before before;
    char *out; /* a piece of the stream, owned */
    size_t out_at, out_n;
};

/* ---- responses ---- */

static void count_error(struct vd_gateway *g)
{
    pthread_mutex_lock(&g->mu);
    g->stats.n_errors++;
    pthread_mutex_unlock(&g->mu);
}

/* Takes text (from malloc) over; NULL is an internal error. */
static enum MHD_Result respond(struct call *c, unsigned status, const char *type, char *text, size_t n,
                               const struct vd_openai_error *e)
{
    char retry[16];
    static char no_memory[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":null}}";
    struct MHD_Response *r =
        text ? MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE)
             : MHD_create_response_from_buffer(sizeof no_memory - 1, no_memory, MHD_RESPMEM_PERSISTENT);
    c->answered = true;
    if (!r) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, text ? type : "application/json");
    MHD_add_response_header(r, "X-Request-Id", c->id);
    if (c->receipt[0])
        MHD_add_response_header(r, "X-Veridem-Receipt", c->receipt);
    if (c->replay)
        MHD_add_response_header(r, "Idempotent-Replayed", "true");
    if (e && e->retry_after_s) {
        snprintf(retry, sizeof retry, "%u", e->retry_after_s);
        MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, retry);
    }
    if (status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == MHD_HTTP_CONTENT_TOO_LARGE)
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result ok = MHD_queue_response(c->connection, text ? status : MHD_HTTP_INTERNAL_SERVER_ERROR, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result respond_json(struct call *c, unsigned status, char *text)
{
    return respond(c, status, "application/json", text, text ? strlen(text) : 0, NULL);
}

static enum MHD_Result respond_error(struct call *c, const struct vd_openai_error *e)
{
    char *text = vd_openai_format_error(e);
    count_error(c->g);
    vd_log_event(&c->g->log, e->status >= 500 ? VD_LOG_WARN : VD_LOG_DEBUG, "a request was refused",
                 "status=%d code=%s param=%s key=%s", e->status, e->code ? e->code : "", e->param,
                 c->key.label);
    return respond(c, (unsigned)e->status, "application/json", text, text ? strlen(text) : 0, e);
}

/* ---- who asks ---- */

static bool authorise(struct call *c, struct vd_openai_error *e)
{
    const char *header =
        MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!header || strncmp(header, "Bearer ", 7) != 0)
        return vd_openai_fail(e, 401, "invalid_api_key", NULL,
                              "An API key is missing: send it as 'Authorization: Bearer KEY'.");
    if (!vd_gateway_keys_find(c->g->keys, header + 7, &c->key))
        return vd_openai_fail(e, 401, "invalid_api_key", NULL, "The API key is not known here.");
    return true;
}

static bool too_many(struct vd_openai_error *e, uint32_t retry_after_s, const char *what)
{
    vd_openai_fail(e, 429, "rate_limit_exceeded", NULL, "This API key has %s; try again in %u s.", what,
                   retry_after_s);
    e->retry_after_s = retry_after_s;
    return false;
}

/* Counts the request for its key; `admitted` is taken back at its end. */
static bool admit(struct call *c, struct vd_openai_error *e)
{
    struct vd_gateway *g = c->g;
    uint64_t now_s = vd_clock_ms() / 1000;
    bool busy = false, fast = false;
    pthread_mutex_lock(&g->mu);
    struct gw_key_use *u = gw_key_use_of(g, &c->key.id);
    if (u) {
        if (u->minute != now_s / 60) {
            u->minute = now_s / 60;
            u->n_in_minute = 0;
        }
        busy = u->n_running >= g->cfg.key_parallel_max;
        fast = !busy && g->cfg.key_per_minute_max && u->n_in_minute >= g->cfg.key_per_minute_max;
        c->admitted = !busy && !fast;
        u->n_running += c->admitted;
        u->n_in_minute += c->admitted;
    }
    pthread_mutex_unlock(&g->mu);
    if (busy)
        return too_many(e, 1, "as many requests running as it may");
    if (fast)
        return too_many(e, (uint32_t)(60 - now_s % 60), "used up its requests for this minute");
    return u || vd_openai_fail(e, 503, "store_failed", NULL,
                               "The gateway's store cannot be read; try again later.");
}

static void take_leave(struct call *c)
{
    struct vd_gateway *g = c->g;
    if (!c->admitted)
        return;
    pthread_mutex_lock(&g->mu);
    struct gw_key_use *u = gw_key_use_of(g, &c->key.id);
    if (u && u->n_running)
        u->n_running--;
    pthread_mutex_unlock(&g->mu);
    c->admitted = false;
}

/* Is the client still there? A half-closed connection counts as gone. */
static bool client_alive(void *arg)
{
    struct call *c = arg;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    if (!info)
        return false;
    ssize_t n = recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* ---- before an answer ---- */

static const struct gw_model *find_model(struct call *c, struct vd_openai_error *e)
{
    const struct vd_gateway *g = c->g;
    char names[MODELS_TEXT_MAX] = "";
    size_t n = 0;
    for (size_t i = 0; i < g->n_models; i++) {
        if (strcmp(g->model[i].name, c->request.model) == 0)
            return &g->model[i];
        int k = snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", g->model[i].name);
        n += k > 0 && (size_t)k < sizeof names - n ? (size_t)k : 0;
    }
    vd_openai_fail(e, 404, "model_not_found", "model",
                   "The model '%.100s' is not served here. There are: %s.", c->request.model, names);
    return NULL;
}

static bool able(struct vd_gateway *g, struct vd_openai_error *e)
{
    if (atomic_load(&g->stopping)) {
        return gw_shutting_down(e);
    } else if (vd_ledger_client_wait(g->ledger, GW_LEDGER_WAIT_MS, NULL) != VD_OK) {
        vd_openai_fail(e, 503, "ledger_unreachable", NULL,
                       "The gateway cannot reach its ledger; try again later.");
    } else if (gw_disk_full(g)) {
        vd_openai_fail(e, 503, "disk_full", NULL, "The gateway's disk is full; try again later.");
    } else {
        return true;
    }
    e->retry_after_s = 5;
    return false;
}

/* Enters the request for retries. True: run it, or c->replay. */
static bool enter(struct call *c, struct vd_openai_error *e)
{
    const char *key = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Idempotency-Key");
    const char *count =
        MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "X-Stainless-Retry-Count");
    if (key && (!*key || strlen(key) > IDEMPOTENCY_KEY_MAX))
        return vd_openai_fail(e, 400, "invalid_value", "Idempotency-Key",
                              "The Idempotency-Key must have 1 to %d characters.", IDEMPOTENCY_KEY_MAX);
    c->explicit_key = key != NULL;
    gw_once_slot(&c->once, &c->key.id, c->path, (struct vd_bytes){c->body, c->n_body}, key);
    bool retry = count && strtol(count, NULL, 10) > 0;
    switch (gw_once_enter(c->g, &c->once, key || retry, client_alive, c, &c->kept, e)) {
    case GW_ONCE_NEW:
        c->entered = true;
        return true;
    case GW_ONCE_REPLAY:
        c->replay = true;
        return true;
    case GW_ONCE_FAIL:
        return false;
    }
    return false;
}

static void make_id(struct call *c)
{
    uint8_t random[12];
    char hex[2 * sizeof random + 1];
    vd_key_random(random, sizeof random);
    vd_hex_encode(hex, random, sizeof random);
    static const char *const prefix[] = {
        [VD_OPENAI_CHAT] = "chatcmpl", [VD_OPENAI_COMPLETION] = "cmpl", [VD_OPENAI_EMBEDDING] = "emb"};
    snprintf(c->id, sizeof c->id, "%s-%s", prefix[c->kind], hex);
    c->created_s = vd_clock_wall_s();
}

static bool no_memory(struct vd_openai_error *e)
{
    return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
}

/* Choice i, which takes ids over; each has its own, since a job is one receipt's. Later ones have the seed of
 * the first. */
static bool make_choice(struct call *c, uint32_t i, const struct gw_model *m, uint32_t *ids, uint32_t n_ids,
                        struct vd_openai_error *e)
{
    struct choice *o = &c->choice[i];
    c->request.sampling.choice = i;
    if (!gw_answer_start(&o->answer, c->g, m, &c->request, &c->key, ids, n_ids, e))
        return false;
    o->running = true;
    o->answer.stream.marks = c->tools || c->request.format.kind != VD_OPENAI_FORMAT_TEXT;
    o->answer.alive = client_alive;
    o->answer.alive_arg = c;
    c->request.sampling.seed = o->answer.job.sampling.seed;
    c->request.has_seed = true;
    c->answer[i] = &o->answer;
    c->n_choices = i + 1;
    return true;
}

static bool make_choices(struct call *c, const struct gw_model *m, uint32_t *ids, uint32_t n_ids,
                         struct vd_openai_error *e)
{
    uint32_t n = c->request.n;
    c->choice = calloc(n, sizeof *c->choice);
    c->answer = calloc(n, sizeof(struct gw_answer *));
    if (!c->choice || !c->answer) {
        free(ids);
        return no_memory(e);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *own = i + 1 < n ? malloc(n_ids * sizeof *own) : ids;
        if (!own) {
            free(ids);
            return no_memory(e);
        }
        if (own != ids)
            memcpy(own, ids, n_ids * sizeof *own);
        if (!make_choice(c, i, m, own, n_ids, e)) {
            if (own != ids)
                free(ids);
            return false;
        }
    }
    if (n > 1)
        gw_answers_join(c->answer, n, true, &c->siblings);
    return true;
}

/* Everything up to the point where a worker is asked. */
static bool prepare(struct call *c, struct vd_openai_error *e)
{
    uint32_t *ids, n_ids;
    if (!vd_openai_parse(&c->request, c->kind, (struct vd_bytes){c->body, c->n_body}, e))
        return false;
    snprintf(c->model, sizeof c->model, "%s", c->request.model);
    c->tools = c->request.tools.type == VD_VALUE_LIST;
    const struct gw_model *m = find_model(c, e);
    if (!m || !admit(c, e) || !able(c->g, e) || !enter(c, e))
        return false;
    if (c->replay)
        return true;
    if (!vd_gateway_text_prompt(m->text, &c->request, &ids, &n_ids, e) || !make_choices(c, m, ids, n_ids, e))
        return false;
    struct gw_answer *a = c->answer[0];
    a->has_slot = c->request.logprobs == 0 && c->request.n == 1; /* else it is not kept */
    struct vd_gwstore_once *o = &a->once;
    o->slot = c->once.slot;
    o->fingerprint = c->once.fingerprint;
    o->created_s = c->created_s;
    o->until_s = c->created_s + (c->explicit_key ? GW_IDEMPOTENT_KEPT_S : GW_RETRY_KEPT_S);
    snprintf(o->reply_id, sizeof o->reply_id, "%s", c->id);
    return true;
}

/* ---- the answer ---- */

/* Of choice `o`. */
static struct vd_openai_reply reply_of(struct call *c, struct choice *o)
{
    const struct vd_gwstore_once *k = c->replay ? &c->kept : &o->answer.once;
    struct vd_openai_reply r = {
        .kind = c->kind, .id = c->id, .created_s = c->created_s, .model = c->model, .receipt_id = o->receipt};
    r.index = (uint32_t)(o - c->choice);
    r.text = c->replay ? k->text : o->answer.text ? o->answer.text : "";
    r.n_text = c->replay ? k->n_text : o->answer.n_text;
    if (o->done) {
        r.finish = k->finish;
        r.n_prompt = k->n_prompt;
        r.n_output = k->n_output;
        r.amount = k->amount;
        vd_hex_encode(o->receipt, k->receipt_id.b, VD_HASH_BYTES);
    }
    return r;
}

/* Of the tokens that no chunk has had yet; NULL: not wanted. */
static json_t *take_logprobs(struct call *c, struct choice *o)
{
    const struct gw_job *j = &o->answer.job;
    if (!c->request.logprobs || c->replay || !j->logprob)
        return NULL;
    return vd_gateway_text_logprobs(j->model->text, c->kind, j->output, j->logprob,
                                    GW_LOGPROB_BYTES(j->logprobs), &o->logprobs, o->answer.n_text_tok);
}

/* The answer is whole: which of its text are tool calls? */
static void read_calls(struct call *c, struct choice *o)
{
    struct vd_openai_reply r = reply_of(c, o);
    o->read = (struct vd_tool_answer){NULL, r.n_text, r.n_text};
    if (c->tools)
        vd_tool_read(&o->read, r.text, r.n_text, &c->request.tools, c->id, r.index, c->request.tool_how);
}

/* Could somebody still get the answer once its client has gone? Of several choices, and with log
 * probabilities, it is not kept. */
static bool is_kept(const struct call *c)
{
    return c->n_choices == 1 && !c->replay && c->answer[0]->has_slot;
}

/* One step of some choice; a client that has hung up before its response began gets its answer finished all
 * the same, if there is a way to get it. */
static enum gw_step step(struct call *c, struct vd_openai_error *e)
{
    enum gw_step s = gw_answers_next(c->answer, c->n_choices, &c->which, e);
    if (s == GW_GONE) {
        c->gone = true;
        if (!is_kept(c) || (c->begun && !c->explicit_key)) {
            vd_openai_fail(e, 400, "client_gone", NULL, "The client has hung up.");
            return s;
        }
        c->answer[0]->alive = NULL;
        s = gw_answers_next(c->answer, c->n_choices, &c->which, e);
    }
    c->choice[c->which].done |= s == GW_DONE;
    return s;
}

static bool all_done(const struct call *c)
{
    for (uint32_t i = 0; i < c->n_choices; i++)
        if (!c->choice[i].done)
            return false;
    return true;
}

/* The kept answer as the only choice. */
static bool take_replay(struct call *c)
{
    c->choice = calloc(1, sizeof *c->choice);
    if (!c->choice)
        return false;
    c->choice[0].done = true;
    c->n_choices = 1;
    snprintf(c->id, sizeof c->id, "%s", c->kept.reply_id);
    c->created_s = c->kept.created_s;
    pthread_mutex_lock(&c->g->mu);
    c->g->stats.n_replayed++;
    pthread_mutex_unlock(&c->g->mu);
    return true;
}

/* The text of a whole answer is what stands around its calls; *memory is the caller's. False: no memory. */
static bool without_calls(const struct choice *o, struct vd_openai_reply *r, char **memory)
{
    size_t n = o->read.n_content, n_rest = r->n_text - o->read.rest;
    *memory = NULL;
    if (!o->read.calls)
        return true;
    char *content = *memory = malloc(n + n_rest + 1);
    if (!content)
        return false;
    memcpy(content, r->text, n);
    memcpy(content + n, r->text + o->read.rest, n_rest);
    r->text = content;
    r->n_text = n + n_rest;
    r->calls = o->read.calls;
    return true;
}

/* The JSON of choice i and of those before it; NULL but for the last. False: no memory. */
static bool whole_choice(struct call *c, uint32_t i, char **json)
{
    struct choice *o = &c->choice[i];
    struct vd_openai_reply r = reply_of(c, o);
    bool last = i + 1 == c->n_choices;
    char *content;
    read_calls(c, o);
    if (!without_calls(o, &r, &content))
        return false;
    json_t *logprobs = take_logprobs(c, o);
    r.logprobs = logprobs;
    r.before = i ? &c->before : NULL;
    if (last)
        *json = vd_openai_format_reply(&r);
    bool ok = last ? *json != NULL : vd_openai_before_add(&c->before, &r);
    json_decref(logprobs);
    free(content);
    return ok;
}

/* All choices in one response. */
static enum MHD_Result respond_whole(struct call *c)
{
    struct vd_openai_error e;
    char *json = NULL;
    while (!all_done(c)) {
        enum gw_step s = step(c, &e);
        if (s == GW_ERROR || s == GW_GONE)
            return respond_error(c, &e);
    }
    c->begun = true;
    c->gone |= !client_alive(c); /* what is sent now would be lost, though sending succeeds */
    for (uint32_t i = 0; i < c->n_choices; i++)
        if (!whole_choice(c, i, &json))
            return respond_json(c, MHD_HTTP_OK, NULL);
    memcpy(c->receipt, c->choice[c->n_choices - 1].receipt, sizeof c->receipt);
    return respond_json(c, MHD_HTTP_OK, json);
}

/* Puts "data: JSON\n\n" into c->out. Takes json over. */
static bool put_event(struct call *c, char *json)
{
    size_t n = json ? strlen(json) : 0;
    free(c->out);
    c->out = json ? malloc(n + sizeof "data: \n\n") : NULL;
    c->out_at = 0;
    c->out_n = 0;
    if (c->out)
        c->out_n = (size_t)sprintf(c->out, "data: %s\n\n", json);
    free(json);
    return c->out != NULL;
}

static bool put_chunk(struct call *c, struct choice *o, enum vd_openai_part part, size_t from, size_t n)
{
    struct vd_openai_reply r = reply_of(c, o);
    r.text += from;
    r.n_text = n;
    r.calls = o->read.calls;
    r.before = part == VD_OPENAI_PART_USAGE && c->n_choices > 1 ? &c->before : NULL;
    json_t *logprobs = part == VD_OPENAI_PART_TEXT ? take_logprobs(c, o) : NULL;
    r.logprobs = logprobs;
    char *json = vd_openai_format_chunk(&r, part, c->request.include_usage);
    json_decref(logprobs);
    return put_event(c, json);
}

/* How much of the text may be sent now: what could become a tool call waits until the answer is whole. */
static size_t sendable(struct call *c, struct choice *o)
{
    struct vd_openai_reply r = reply_of(c, o);
    if (!c->tools)
        return r.n_text;
    if (!o->done)
        return vd_tool_content(&o->scan, r.text, r.n_text);
    if (!o->read.calls)
        read_calls(c, o);
    return o->read.n_content;
}

struct piece {
    enum vd_openai_part part;
    size_t from, n; /* of the text */
};

/* The choice's next chunk, if it has one now. */
static bool take_piece(struct call *c, struct choice *o, struct piece *p)
{
    size_t n = sendable(c, o), from = o->n_sent, rest = o->done ? reply_of(c, o).n_text - o->read.rest : 0;
    if (o->state == S_OVER || (n == from && !o->done))
        return false;
    if (o->state == S_ROLE) {
        o->state = S_TEXT;
        *p = (struct piece){VD_OPENAI_PART_ROLE, 0, 0};
        if (c->kind == VD_OPENAI_CHAT)
            return true;
    }
    if (o->state == S_TEXT && n > from) {
        o->n_sent = n;
        *p = (struct piece){VD_OPENAI_PART_TEXT, from, n - from};
        return true;
    }
    if (o->state == S_TEXT)
        o->state = o->read.calls ? S_CALLS : S_FINISH;
    if (o->state == S_CALLS) {
        o->state = rest ? S_REST : S_FINISH;
        *p = (struct piece){VD_OPENAI_PART_CALLS, 0, 0};
    } else if (o->state == S_REST) {
        o->state = S_FINISH;
        *p = (struct piece){VD_OPENAI_PART_TEXT, o->read.rest, rest};
    } else {
        o->state = S_OVER;
        *p = (struct piece){VD_OPENAI_PART_FINISH, 0, 0};
    }
    return true;
}

/* A chunk of some choice: they take turns. */
static bool put_some(struct call *c, bool *failed)
{
    struct piece p;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        uint32_t at = (c->turn + i) % c->n_choices;
        if (!take_piece(c, &c->choice[at], &p))
            continue;
        c->turn = at + 1;
        *failed = !put_chunk(c, &c->choice[at], p.part, p.from, p.n);
        return true;
    }
    return false;
}

static bool put_error(struct call *c, const struct vd_openai_error *e)
{
    count_error(c->g);
    c->state = S_END;
    return put_event(c, vd_openai_format_error(e));
}

/* The usage of all choices. */
static bool put_usage(struct call *c)
{
    for (uint32_t i = 0; i + 1 < c->n_choices; i++) {
        struct vd_openai_reply r = reply_of(c, &c->choice[i]);
        if (!vd_openai_before_add(&c->before, &r))
            return false;
    }
    return put_chunk(c, &c->choice[c->n_choices - 1], VD_OPENAI_PART_USAGE, 0, 0);
}

/* Fills c->out with the next piece. False: the connection is to be cut. */
static bool produce(struct call *c)
{
    bool failed = false;
    struct vd_openai_error e;
    while (c->state == S_CHOICES) {
        if (put_some(c, &failed))
            return !failed;
        if (all_done(c)) {
            c->state = c->request.include_usage ? S_USAGE : S_DONE;
            break;
        }
        enum gw_step s = step(c, &e);
        if (s == GW_GONE)
            return false;
        if (s == GW_ERROR)
            return put_error(c, &e);
    }
    switch (c->state) {
    case S_USAGE:
        c->state = S_DONE;
        return put_usage(c);
    case S_DONE:
        c->state = S_END;
        return put_event(c, strdup("[DONE]"));
    case S_CHOICES:
    case S_END:
        break;
    }
    c->out_n = c->out_at = 0;
    return true;
}

static ssize_t read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
    struct call *c = arg;
    (void)pos;
    if (c->out_at == c->out_n) {
        if (!produce(c))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (c->out_n == 0)
            return MHD_CONTENT_READER_END_OF_STREAM;
    }
    size_t n = c->out_n - c->out_at < max ? c->out_n - c->out_at : max;
    memcpy(buf, c->out + c->out_at, n);
    c->out_at += n;
    return (ssize_t)n;
}

/* What the worker has ended waits for the client to take what is before it. */
static bool is_taken_late(void *arg, uint64_t now_ms)
{
    struct call *c = arg;
    bool late = false;
    pthread_mutex_lock(&c->g->mu);
    for (uint32_t i = 0; i < c->n_choices; i++) {
        uint64_t over_ms = c->answer[i]->job.over_ms;
        late |= over_ms && now_ms > over_ms + c->g->cfg.receive_ms;
    }
    pthread_mutex_unlock(&c->g->mu);
    return late;
}

static enum MHD_Result respond_stream(struct call *c)
{
    struct vd_openai_error e;
    bool ready = all_done(c);
    while (!ready) {
        enum gw_step s = step(c, &e);
        if (s == GW_ERROR || s == GW_GONE)
            return respond_error(c, &e);
        ready = s == GW_DONE || c->answer[c->which]->n_text > 0;
    }
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, c, NULL);
    if (!r)
        return MHD_NO;
    c->begun = c->answered = true;
    if (c->choice)
        gw_guard_answer(c->g->http->guard, c->guest, is_taken_late, c);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
    MHD_add_response_header(r, "X-Request-Id", c->id);
    if (c->replay)
        MHD_add_response_header(r, "Idempotent-Replayed", "true");
    enum MHD_Result ok = MHD_queue_response(c->connection, MHD_HTTP_OK, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result answer(struct call *c)
{
    struct vd_openai_error e;
    pthread_mutex_lock(&c->g->mu);
    c->g->stats.n_requests++;
    pthread_mutex_unlock(&c->g->mu);
    if (!prepare(c, &e))
        return respond_error(c, &e);
    if (c->replay && !take_replay(c))
        return respond_json(c, MHD_HTTP_OK, NULL);
    return c->request.stream ? respond_stream(c) : respond_whole(c);
}

static enum MHD_Result embeddings(struct call *c)
{
    struct vd_openai_embed r;
    struct vd_openai_error e;
    pthread_mutex_lock(&c->g->mu);
    c->g->stats.n_requests++;
    pthread_mutex_unlock(&c->g->mu);
    if (!vd_openai_embed_parse(&r, (struct vd_bytes){c->body, c->n_body}, &e))
        return respond_error(c, &e);
    c->request.model = r.model;
    const struct gw_model *m = find_model(c, &e);
    bool ok = m && admit(c, &e) && able(c->g, &e) && gw_embed(c->g, m, &r, &c->key, client_alive, c, &e);
    char *text = ok ? vd_openai_embed_format(&r) : NULL;
    c->request.model = NULL;
    vd_openai_embed_free(&r);
    return ok ? respond_json(c, MHD_HTTP_OK, text) : respond_error(c, &e);
}

/* ---- reading ---- */

static enum MHD_Result get_models(struct call *c, const char *name)
{
    struct vd_gateway *g = c->g;
    struct vd_openai_model m[VD_GATEWAY_MODELS_MAX];
    struct vd_openai_error e;
    size_t n = 0;
    pthread_mutex_lock(&g->mu);
    for (size_t i = 0; i < g->n_models; i++) {
        struct vd_wire_offer o = {.capacity = 0};
        if (name && strcmp(name, g->model[i].name) != 0)
            continue;
        m[n] = (struct vd_openai_model){.id = g->model[i].name,
                                        .created_s = g->started_s,
                                        .root = g->model[i].root,
                                        .context_tok = vd_gateway_text_context(g->model[i].text)};
        m[n].n_workers = (uint32_t)gw_workers_of(g, &g->model[i].root, &o);
        m[n].price_in = o.price_in;
        m[n++].price_out = o.price_out;
    }
    pthread_mutex_unlock(&g->mu);
    if (!name)
        return respond_json(c, MHD_HTTP_OK, vd_openai_format_models(m, n));
    if (n)
        return respond_json(c, MHD_HTTP_OK, vd_openai_format_model(&m[0]));
    vd_openai_fail(&e, 404, "model_not_found", "model", "The model '%.100s' is not served here.", name);
    return respond_error(c, &e);
}

/* Only the key that asked for the answer sees its receipt. */
static enum MHD_Result get_receipt(struct call *c, const char *id)
{
    struct vd_hash hash;
    struct vd_gwstore_receipt r;
    struct vd_openai_error e;
    bool there = vd_hex_decode(hash.b, VD_HASH_BYTES, id) &&
                 vd_gwstore_receipt_get(c->g->store, &hash, &r, NULL) == VD_OK;
    if (there && memcmp(&r.key, &c->key.id, sizeof r.key) != 0) {
        free(r.envelope);
        there = false;
    }
    if (!there) {
        vd_openai_fail(&e, 404, "receipt_not_found", "id", "This API key has no receipt with this id.");
        return respond_error(c, &e);
    }
    if (c->query.file)
        return respond(c, MHD_HTTP_OK, "application/octet-stream", (char *)r.envelope, r.n_envelope, NULL);
    char *text = gw_receipt_json(c->g, &r);
    free(r.envelope);
    return respond_json(c, MHD_HTTP_OK, text);
}

static enum MHD_Result get_metrics(struct call *c)
{
    struct vd_metrics m = {malloc(VD_METRICS_MAX_BYTES), 0, VD_METRICS_MAX_BYTES};
    if (m.p) {
        m.p[0] = 0;
        gw_metrics(c->g, &m);
    }
    return respond(c, MHD_HTTP_OK, "text/plain; version=0.0.4", m.p, m.n, NULL);
}

static enum MHD_Result get_health(struct call *c)
{
    char text[256] = "", *json = malloc(384);
    bool ok = gw_health(c->g, text);
    for (char *t = text; *t; t++)
        *t = *t == '"' || *t == '\\' || (unsigned char)*t < 0x20 ? '\'' : *t;
    if (json)
        snprintf(json, 384, "{\"status\":\"%s\",\"detail\":\"%s\"}\n", ok ? "ok" : "unavailable", text);
    return respond_json(c, ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, json);
}

/* ---- routes ---- */

static bool starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_post_path(const char *path)
{
    return strcmp(path, "/v1/chat/completions") == 0 || strcmp(path, "/v1/completions") == 0 ||
           strcmp(path, "/v1/embeddings") == 0;
}

static bool is_get_path(const char *path)
{
    return strcmp(path, "/v1/models") == 0 || starts(path, "/v1/models/") || starts(path, GW_RECEIPTS_PATH) ||
           strcmp(path, "/health") == 0 || strcmp(path, "/metrics") == 0;
}

static enum MHD_Result get(struct call *c, const char *path)
{
    if (strcmp(path, "/health") == 0)
        return get_health(c);
    if (strcmp(path, "/metrics") == 0)
        return get_metrics(c);
    if (starts(path, GW_RECEIPTS_PATH))
        return get_receipt(c, path + strlen(GW_RECEIPTS_PATH));
    return get_models(c, starts(path, "/v1/models/") ? path + strlen("/v1/models/") : NULL);
}

/* Headers only: may this request go on? */
static bool check_head(struct call *c, const char *path, const char *method, struct vd_openai_error *e)
{
    bool open = strcmp(path, "/health") == 0 || strcmp(path, "/metrics") == 0;
    const char *length =
        MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (!is_post_path(path) && !is_get_path(path))
        return vd_openai_fail(e, 404, "unknown_url", NULL, "There is no %.60s here.", path);
    c->is_post = is_post_path(path);
    if (strcmp(method, c->is_post ? "POST" : "GET") != 0)
        return vd_openai_fail(e, 405, "method_not_allowed", NULL, "Use %s for %.60s.",
                              c->is_post ? "POST" : "GET", path);
    if ((!open && !authorise(c, e)) || !gw_query_read(&c->query, c->connection, path, e))
        return false;
    if (c->is_post && length && strtoull(length, NULL, 10) > VD_OPENAI_BODY_MAX)
        return vd_openai_fail(e, 413, "request_too_large", NULL, "The body has %.20s bytes; the limit is %d.",
                              length, VD_OPENAI_BODY_MAX);
    c->path = c->is_post && strcmp(path, "/v1/completions") == 0 ? "/v1/completions" : "/v1/chat/completions";
    c->kind = strcmp(path, "/v1/embeddings") == 0       ? VD_OPENAI_EMBEDDING
              : strcmp(c->path, "/v1/completions") == 0 ? VD_OPENAI_COMPLETION
                                                        : VD_OPENAI_CHAT;
    return true;
}

/* Many clients read nothing before they have sent all, and an answer that does not wait for that is lost:
 * closing a connection with bytes unread resets it. Who asks whether to send is told at once. */
static bool may_answer_at_once(struct call *c)
{
    const char *length =
        MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT) ||
           (length && strtoull(length, NULL, 10) > DROP_MAX_BYTES);
}

/* False: the connection is to be closed. */
static bool take_body(struct call *c, const char *p, size_t n)
{
    if (c->refused || c->n_dropped || n > VD_OPENAI_BODY_MAX - c->n_body) {
        c->n_dropped += n;
        return c->n_dropped <= DROP_MAX_BYTES;
    }
    if (c->n_body + n > c->cap_body) {
        size_t cap = c->cap_body ? c->cap_body : 4096;
        while (cap < c->n_body + n)
            cap *= 2;
        uint8_t *b = realloc(c->body, cap);
        if (!b)
            return false;
        c->body = b;
        c->cap_body = cap;
    }
    memcpy(c->body + c->n_body, p, n);
    c->n_body += n;
    return true;
}

static enum MHD_Result first_call(struct gw_http *h, struct MHD_Connection *connection, const char *path,
                                  const char *method, void **state)
{
    struct call *c = calloc(1, sizeof *c);
    if (!c)
        return MHD_NO;
    *state = c;
    c->g = h->g;
    c->connection = connection;
    atomic_fetch_add(&h->n_calls, 1);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    c->guest = info ? info->socket_context : NULL;
    c->refused = !check_head(c, path, method, &c->refusal);
    make_id(c);
    return c->refused && may_answer_at_once(c) ? respond_error(c, &c->refusal) : MHD_YES;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload, size_t *n_upload,
                              void **state)
{
    struct call *c = *state;
    struct vd_openai_error e;
    (void)version;
    if (!c)
        return first_call(cls, connection, path, method, state);
    if (*n_upload) {
        bool ok = (!c->is_post && !c->refused) || take_body(c, upload, *n_upload);
        *n_upload = 0;
        return ok ? MHD_YES : MHD_NO;
    }
    gw_guard_received(c->g->http->guard, c->guest);
    if (c->refused)
        return respond_error(c, &c->refusal);
    if (!c->is_post)
        return get(c, path);
    if (!c->n_dropped)
        return c->kind == VD_OPENAI_EMBEDDING ? embeddings(c) : answer(c);
    vd_openai_fail(&e, 413, "request_too_large", NULL, "The body has more than the limit of %d bytes.",
                   VD_OPENAI_BODY_MAX);
    return respond_error(c, &e);
}

/* Cancels those that have not ended: all of them, before any is waited for. */
static void free_choices(struct call *c)
{
    for (uint32_t i = 0; i < c->n_choices && !c->replay; i++)
        if (!c->choice[i].done && c->answer[i]->job.n_attempts)
            gw_job_cancel(c->g, &c->answer[i]->job);
    for (uint32_t i = c->n_choices; i-- > 0;) { /* the first has what the others wait on */
        json_decref(c->choice[i].read.calls);
        if (c->choice[i].running)
            gw_answer_free(&c->choice[i].answer);
    }
    vd_openai_before_free(&c->before);
    free(c->choice);
    free(c->answer);
}

/* The response has been sent, or the connection is gone. */
static void completed(void *cls, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode why)
{
    struct gw_http *h = cls;
    struct call *c = *state;
    struct vd_openai_error e;
    (void)connection;
    if (!c)
        return;
    *state = NULL;
    gw_guard_answer(h->guard, c->guest, NULL, NULL);
    if (is_kept(c) && !c->choice[0].done && c->explicit_key) { /* it will be asked for again: to the end */
        c->answer[0]->alive = NULL;
        while (step(c, &e) == GW_TEXT)
            ;
    }
    bool delivered = why == MHD_REQUEST_TERMINATED_COMPLETED_OK && all_done(c) && c->n_choices && !c->gone &&
                     !c->replay && !c->explicit_key;
    if (delivered)
        gw_once_delivered(c->g, &c->once.slot);
    free_choices(c);
    if (c->entered)
        gw_once_leave(c->g, &c->once);
    take_leave(c);
    vd_openai_request_free(&c->request);
    gw_guard_next(h->guard, c->guest);
    free(c->kept.text);
    free(c->out);
    free(c->body);
    free(c);
    atomic_fetch_sub(&h->n_calls, 1);
}

static void connected(void *cls, struct MHD_Connection *connection, void **context,
                      enum MHD_ConnectionNotificationCode what)
{
    struct gw_http *h = cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = info ? gw_guard_enter(h->guard, info->connect_fd) : NULL;
    } else {
        gw_guard_leave(h->guard, *context);
        *context = NULL;
    }
}

enum vd_err gw_http_start(struct vd_gateway *g, struct vd_error *err)
{
    struct gw_http *h = calloc(1, sizeof *h);
    int fd = -1;
    if (!h)
        return vd_error_set(err, VD_ENOMEM, "no memory for the HTTP server");
    h->g = g;
    enum vd_err e = gw_guard_start(&h->guard, g->cfg.receive_ms, err);
    if (e == VD_OK)
        e = vd_listen_tcp(&fd, &h->port, g->cfg.http_host, g->cfg.http_port, err);
    if (e != VD_OK) {
        gw_guard_stop(h->guard);
        free(h);
        return e;
    }
    g->http = h; /* before the first request */
    h->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, h->port,
        NULL, NULL, handle, h, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)g->cfg.connections_max, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)g->cfg.connections_per_address_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
        completed, h, MHD_OPTION_NOTIFY_CONNECTION, connected, h, MHD_OPTION_END);
    if (!h->daemon) {
        g->http = NULL;
        close(fd);
        gw_guard_stop(h->guard);
        free(h);
        return vd_error_set(err, VD_EAGAIN, "cannot start the HTTP server on port %u", g->cfg.http_port);
    }
    return VD_OK;
}

void gw_http_stop(struct vd_gateway *g)
{
    if (!g->http)
        return;
    MHD_socket listening = MHD_quiesce_daemon(g->http->daemon);
    uint64_t until = vd_clock_ms() + DRAIN_MS;
    while (atomic_load(&g->http->n_calls) && vd_clock_ms() < until)
        vd_clock_sleep_ms(DRAIN_POLL_MS);
    MHD_stop_daemon(g->http->daemon);
    if (listening != MHD_INVALID_SOCKET)
        close(listening);
    gw_guard_stop(g->http->guard);
    free(g->http);
    g->http = NULL;
}

uint16_t gw_http_port(const struct gw_http *h)
{
    return h->port;
}
