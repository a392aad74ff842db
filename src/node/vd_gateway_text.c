/* A prompt may have as many ids as the context, and no more memory is ever taken for it: the body's limit (1
 * MiB) bounds the text, and a token is at least one byte of it. */
#include "vd_gateway_text.h"
#include "vd_calls.h"
#include "vd_clock.h"
#include "vd_derive.h"
#include "vd_embed.h"
#include "vd_gguf.h"
#include "vd_openai_logprob.h"
#include "vd_rules.h"
#include "vd_template.h"
#include "vd_texts.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOOL_MARKS_MAX = 16, MASKS = 32 /* kept: 1.5 MiB at most */ };
enum { RENDERED_MAX_BYTES = 4 << 20 }; /* a template adds a few bytes per message */

/* A compiled mask, by the hash of its kind and text; n 0: free. */
struct kept_mask {
    struct vd_hash of;
    uint8_t *mask; /* owned */
    size_t n;
    uint64_t last_used;
};

struct vd_gateway_text {
    struct vd_gguf *gguf;
    struct vd_tok *tok;
    struct vd_template *chat; /* NULL: the file has none */
    struct vd_program program;
    struct vd_str bos, eos;
    uint32_t mark[TOOL_MARKS_MAX], n_marks; /* tokens that are marks of tool calls */
    uint32_t forms;                         /* of the calls that the template shows (vd_calls.h) */
    pthread_mutex_t mu;
    struct vd_texts *texts; /* from the first mask on; this and what follows under mu */
    struct kept_mask kept[MASKS];
    uint64_t clock;
};

static struct vd_str text_of_token(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes b = id == VD_TOK_NONE ? (struct vd_bytes){NULL, 0} : vd_tok_piece(tok, id, true);
    return (struct vd_str){b.n ? (const char *)b.p : "", b.n};
}

static void find_marks(struct vd_gateway_text *t)
{
    for (const char *const *m = vd_texts_marks(); *m && t->n_marks < TOOL_MARKS_MAX; m++) {
        uint32_t id = vd_tok_find(t->tok, *m, strlen(*m));
        if (id != VD_TOK_NONE)
            t->mark[t->n_marks++] = id;
    }
}

static bool is_mark(const struct vd_gateway_text *t, uint32_t id)
{
    for (uint32_t i = 0; i < t->n_marks; i++)
        if (t->mark[i] == id)
            return true;
    return false;
}

static enum vd_err open_parts(struct vd_gateway_text *t, const char *path, struct vd_error *err)
{
    struct vd_gguf_str chat = {NULL, 0};
    enum vd_err e = vd_gguf_open_map(&t->gguf, path, err);
    if (e == VD_OK)
        e = vd_derive_program(&t->program, t->gguf, err);
    if (e == VD_OK)
        e = vd_tok_load(&t->tok, t->gguf, err);
    if (e == VD_OK && vd_tok_count(t->tok) != t->program.vocab)
        e = vd_error_set(err, VD_EFORMAT, "%s: the tokenizer has %u tokens, the model %u", path,
                         vd_tok_count(t->tok), t->program.vocab);
    if (e == VD_OK)
        e = vd_gguf_get_str(t->gguf, "tokenizer.chat_template", VD_GGUF_OPTIONAL, &chat, err);
    if (e == VD_OK && chat.n)
        e = vd_template_parse(&t->chat, chat.p, chat.n, err);
    if (e == VD_OK) {
        t->bos = text_of_token(t->tok, vd_tok_bos(t->tok));
        t->eos = text_of_token(t->tok, vd_tok_eos(t->tok));
        t->forms = vd_calls_forms(chat.p, chat.n);
        find_marks(t);
    }
    return e;
}

enum vd_err vd_gateway_text_open(struct vd_gateway_text **out, const char *path, struct vd_error *err)
{
    struct vd_gateway_text *t = calloc(1, sizeof *t);
    if (!t)
        return vd_error_set(err, VD_ENOMEM, "no memory for the text side of %s", path);
    pthread_mutex_init(&t->mu, NULL);
    enum vd_err e = open_parts(t, path, err);
    if (e != VD_OK) {
        vd_gateway_text_close(t);
        return e;
    }
    *out = t;
    return VD_OK;
}

void vd_gateway_text_close(struct vd_gateway_text *t)
{
    if (!t)
        return;
    vd_template_free(t->chat);
    vd_texts_free(t->texts);
    for (size_t i = 0; i < MASKS; i++)
        free(t->kept[i].mask);
    pthread_mutex_destroy(&t->mu);
    vd_tok_free(t->tok);
    vd_gguf_close(t->gguf);
    free(t);
}

uint32_t vd_gateway_text_context(const struct vd_gateway_text *t)
{
    return t->program.ctx;
}

bool vd_gateway_text_generates(const struct vd_gateway_text *t)
{
    return !vd_program_is_encoder(&t->program);
}

uint32_t vd_gateway_text_width(const struct vd_gateway_text *t)
{
    return t->program.width;
}

enum vd_pooling vd_gateway_text_pooling(const struct vd_gateway_text *t)
{
    return vd_embed_pooling(t->gguf);
}

bool vd_gateway_text_is_stop(const struct vd_gateway_text *t, uint32_t id)
{
    for (uint32_t i = 0; i < t->program.n_stop; i++) {
        if (t->program.stop[i] == id)
            return true;
    }
    return false;
}

bool vd_gateway_text_valid(const struct vd_gateway_text *t, uint32_t id)
{
    return id < t->program.vocab;
}

static const char *param_of(enum vd_openai_kind kind)
{
    return kind == VD_OPENAI_CHAT ? "messages" : kind == VD_OPENAI_EMBEDDING ? "input" : "prompt";
}

/* The most ids of a prompt: an answer wants room for one token. */
static size_t most_ids(const struct vd_gateway_text *t, enum vd_openai_kind kind)
{
    return kind == VD_OPENAI_EMBEDDING ? t->program.ctx : t->program.ctx - 1;
}

static bool too_long(const struct vd_gateway_text *t, size_t n, enum vd_openai_kind kind,
                     struct vd_openai_error *e)
{
    const char *param = param_of(kind);
    return vd_openai_fail(
        e, 400, "context_length_exceeded", param,
        "The prompt has %zu tokens; this model's context has %u%s. Shorten the %s.", n, t->program.ctx,
        kind == VD_OPENAI_EMBEDDING ? "" : ", and at least one is needed for the answer", param);
}

/* Text to ids. `flags` as vd_tok_encode's. */
static bool encode(const struct vd_gateway_text *t, enum vd_openai_kind kind, const char *text, size_t n_text,
                   unsigned flags, uint32_t **ids, uint32_t *n_ids, struct vd_openai_error *e)
{
    struct vd_error why;
    struct vd_tok_ids to = {.max = t->program.ctx};
    to.p = malloc(to.max * sizeof *to.p);
    if (!to.p)
        return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    enum vd_err r = vd_tok_encode(t->tok, text, n_text, flags, &to, &why);
    if (r == VD_OK && to.n_dropped_bytes == 0 && to.n > 0 && to.n <= most_ids(t, kind)) {
        *ids = to.p;
        *n_ids = (uint32_t)to.n;
        return true;
    }
    free(to.p);
    const char *param = param_of(kind);
    if (r == VD_OK && to.n_dropped_bytes > 0)
        return vd_openai_fail(e, 400, "invalid_value", param,
                              "%zu bytes of the prompt are in no token of this model's vocabulary (control "
                              "characters, mostly); leave those characters out.",
                              to.n_dropped_bytes);
    if (r == VD_OK && to.n == 0)
        return vd_openai_fail(e, 400, "invalid_value", param, "The prompt is empty.");
    if (r == VD_OK || (r == VD_ELIMIT && to.n >= t->program.ctx))
        return too_long(t, to.n, kind, e);
    return vd_openai_fail(e, r == VD_ENOMEM ? 503 : 400, "invalid_value", param,
                          "The prompt cannot be tokenised: %s.", why.msg);
}

/* The template's output, in memory of its own. Most templates want a tool call's arguments as a map; those to
 * which it is an error get them as text. */
static char *render(const struct vd_gateway_text *t, const struct vd_openai_request *r, size_t *n,
                    struct vd_openai_error *e)
{
    struct vd_error why;
    char *text = malloc(RENDERED_MAX_BYTES);
    struct vd_chat chat = {.messages = r->messages,
                           .tools = r->tools,
                           .extra = r->template_args,
                           .add_generation_prompt = true,
                           .bos = t->bos,
                           .eos = t->eos,
                           .has_now = true,
                           .now_s = (int64_t)vd_clock_wall_s()};
    enum vd_err rc = VD_ENOMEM;
    vd_error_set(&why, VD_ENOMEM, "no memory");
    if (text)
        rc = vd_template_run_chat(t->chat, &chat, text, RENDERED_MAX_BYTES, n, &why);
    if (rc == VD_EFORMAT) {
        chat.messages = r->messages_text;
        rc = vd_template_run_chat(t->chat, &chat, text, RENDERED_MAX_BYTES, n, &why);
    }
    if (rc == VD_OK)
        return text;
    free(text);
    vd_openai_fail(e, rc == VD_ENOMEM ? 503 : 400, "invalid_value", "messages",
                   "The messages do not suit this model's chat template: %s", why.msg);
    return NULL;
}

static bool chat_ids(const struct vd_gateway_text *t, const struct vd_openai_request *r, uint32_t **ids,
                     uint32_t *n_ids, struct vd_openai_error *e)
{
    size_t n = 0;
    if (!t->chat)
        return vd_openai_fail(e, 400, "unsupported_value", "model",
                              "The model '%s' has no chat template; use /v1/completions.", r->model);
    if (r->tools.type == VD_VALUE_LIST && !vd_template_names(t->chat, "tools"))
        return vd_openai_fail(e, 400, "unsupported_value", "tools",
                              "The chat template of the model '%s' has no place for tools.", r->model);
    char *text = render(t, r, &n, e);
    if (!text)
        return false;
    bool has_bos = t->bos.n && n >= t->bos.n && memcmp(text, t->bos.p, t->bos.n) == 0;
    unsigned flags = VD_TOK_PARSE_SPECIAL | (has_bos ? 0 : VD_TOK_ADD_BOS);
    bool ok = encode(t, r->kind, text, n, flags, ids, n_ids, e);
    free(text);
    return ok;
}

static bool given_ids(const struct vd_gateway_text *t, const struct vd_openai_request *r, uint32_t **ids,
                      uint32_t *n_ids, struct vd_openai_error *e)
{
    if (r->n_ids > most_ids(t, r->kind))
        return too_long(t, r->n_ids, r->kind, e);
    for (size_t i = 0; i < r->n_ids; i++) {
        if (!vd_gateway_text_valid(t, r->ids[i]))
            return vd_openai_fail(e, 400, "invalid_value", param_of(r->kind),
                                  "The token id %u is not in the vocabulary of %u.", r->ids[i],
                                  t->program.vocab);
    }
    *ids = malloc(r->n_ids * sizeof **ids);
    if (!*ids)
        return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    memcpy(*ids, r->ids, r->n_ids * sizeof **ids);
    *n_ids = (uint32_t)r->n_ids;
    return true;
}

bool vd_gateway_text_prompt(const struct vd_gateway_text *t, const struct vd_openai_request *r,
                            uint32_t **ids, uint32_t *n_ids, struct vd_openai_error *e)
{
    if (!vd_gateway_text_generates(t) && r->kind != VD_OPENAI_EMBEDDING)
        return vd_openai_fail(e, 400, "unsupported_value", "model",
                              "The model '%s' is an encoder: it gives vectors and generates nothing; use "
                              "/v1/embeddings.",
                              r->model);
    if (r->kind == VD_OPENAI_CHAT)
        return chat_ids(t, r, ids, n_ids, e);
    if (!r->prompt.p)
        return given_ids(t, r, ids, n_ids, e);
    unsigned flags =
        VD_TOK_ADD_BOS | VD_TOK_PARSE_SPECIAL | (r->kind == VD_OPENAI_EMBEDDING ? VD_TOK_ADD_END : 0);
    return encode(t, r->kind, r->prompt.p, r->prompt.n, flags, ids, n_ids, e);
}

size_t vd_gateway_text_put(const struct vd_gateway_text *t, struct vd_gateway_text_stream *s, uint32_t id,
                           char out[VD_GATEWAY_TEXT_TOKEN_MAX])
{
    if (vd_gateway_text_is_stop(t, id))
        return 0;
    struct vd_bytes piece = vd_tok_piece(t->tok, id, s->marks && is_mark(t, id));
    return vd_tok_stream_put(&s->characters, piece.p, piece.n, out);
}

size_t vd_gateway_text_end(struct vd_gateway_text_stream *s, char out[VD_GATEWAY_TEXT_TOKEN_MAX])
{
    return vd_tok_stream_end(&s->characters, out);
}

/* ---- the answer's form ---- */

static bool texts_of(struct vd_gateway_text *t, struct vd_hash *root, struct vd_error *err)
{
    pthread_mutex_lock(&t->mu);
    bool ok = t->texts || vd_texts_create(&t->texts, t->tok, t->program.vocab, err) == VD_OK;
    if (ok)
        *root = vd_texts_root(t->texts);
    pthread_mutex_unlock(&t->mu);
    return ok;
}

static struct vd_hash hash_of(const struct vd_openai_format *format)
{
    uint8_t any = !format->text.p, language = format->kind == VD_OPENAI_FORMAT_GRAMMAR ? 1
                                              : format->kind == VD_OPENAI_FORMAT_TOOLS ? 2
                                                                                       : 0;
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, &language, 1);
    vd_sha256_update(&s, &any, 1);
    if (!any)
        vd_sha256_update(&s, format->text.p, format->text.n);
    vd_sha256_final(&s, &h);
    return h;
}

/* Copies a kept mask to out (VD_MASK_BYTES_MAX). */
static bool find_mask(struct vd_gateway_text *t, const struct vd_hash *of, uint8_t *out, size_t *n)
{
    *n = 0;
    pthread_mutex_lock(&t->mu);
    for (size_t i = 0; i < MASKS && *n == 0; i++) {
        struct kept_mask *k = &t->kept[i];
        if (k->n == 0 || !vd_hash_eq(&k->of, of))
            continue;
        memcpy(out, k->mask, k->n);
        *n = k->n;
        k->last_used = ++t->clock;
    }
    pthread_mutex_unlock(&t->mu);
    return *n > 0;
}

/* In place of the one that was not used for longest; without memory it is not kept. */
static void keep_mask(struct vd_gateway_text *t, const struct vd_hash *of, const uint8_t *mask, size_t n)
{
    uint8_t *copy = malloc(n);
    struct kept_mask *oldest = &t->kept[0];
    if (!copy)
        return;
    memcpy(copy, mask, n);
    pthread_mutex_lock(&t->mu);
    for (size_t i = 1; i < MASKS; i++)
        if (t->kept[i].last_used < oldest->last_used)
            oldest = &t->kept[i];
    free(oldest->mask);
    *oldest = (struct kept_mask){*of, copy, n, ++t->clock};
    pthread_mutex_unlock(&t->mu);
}

static enum vd_err compile(const struct vd_gateway_text *t, const struct vd_openai_format *format,
                           const struct vd_hash *root, uint8_t *mask, size_t *n, struct vd_error *err)
{
    const struct vd_openai_text *text = &format->text;
    if (format->kind == VD_OPENAI_FORMAT_GRAMMAR)
        return vd_grammar_compile(text->p, text->n, root, mask, n, err);
    if (format->kind == VD_OPENAI_FORMAT_TOOLS)
        return vd_calls_compile(text->p, text->n, t->forms, root, mask, n, err);
    return vd_schema_compile(text->p, text->n, root, mask, n, err);
}

bool vd_gateway_text_mask(struct vd_gateway_text *t, const struct vd_openai_format *format, uint8_t **mask,
                          size_t *n, struct vd_openai_error *e)
{
    const char *param = format->kind == VD_OPENAI_FORMAT_GRAMMAR ? "response_format.grammar"
                        : format->kind == VD_OPENAI_FORMAT_CALL  ? "tool_choice"
                        : format->kind == VD_OPENAI_FORMAT_TOOLS ? "tools"
                                                                 : "response_format.json_schema";
    struct vd_hash root, of = hash_of(format);
    struct vd_error why;
    *mask = malloc(VD_MASK_BYTES_MAX);
    if (*mask && find_mask(t, &of, *mask, n))
        return true;
    if (!*mask || !texts_of(t, &root, &why)) {
        free(*mask);
        return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    }
    enum vd_err rc = compile(t, format, &root, *mask, n, &why);
    if (rc == VD_OK) {
        keep_mask(t, &of, *mask, *n);
        return true;
    }
    free(*mask);
    return vd_openai_fail(e, rc == VD_ENOMEM ? 503 : 400, "invalid_value", param, "%s", why.msg);
}

/* ---- log probabilities ---- */

static float value_of(const uint8_t *bits)
{
    return vd_f32_from_bits(vd_le32_load(bits));
}

static json_t *chat_entry(const struct vd_gateway_text *t, uint32_t id, const uint8_t *p)
{
    json_t *top = json_array(), *entry = vd_openai_logprob(t->tok, id, value_of(p));
    for (unsigned i = 0; i < p[4]; i++) {
        uint32_t other = vd_le32_load(p + 5 + 8 * i);
        if (vd_gateway_text_valid(t, other))
            json_array_append_new(top, vd_openai_logprob(t->tok, other, value_of(p + 9 + 8 * i)));
    }
    json_object_set_new(entry, "top_logprobs", top);
    return entry;
}

static json_t *completion_top(const struct vd_gateway_text *t, const uint8_t *p)
{
    json_t *top = json_object();
    for (unsigned i = 0; i < p[4]; i++) {
        uint32_t other = vd_le32_load(p + 5 + 8 * i);
        json_t *name = vd_gateway_text_valid(t, other) ? vd_openai_token_text(t->tok, other) : NULL;
        if (name)
            json_object_set_new(top, json_string_value(name),
                                vd_openai_logprob_value(value_of(p + 9 + 8 * i)));
        json_decref(name);
    }
    return top;
}

/* Characters that a token adds to the text; one that is cut counts with its last piece. */
static uint64_t characters_of(const struct vd_gateway_text *t, struct vd_gateway_text_stream *s, uint32_t id)
{
    char out[VD_GATEWAY_TEXT_TOKEN_MAX];
    size_t n = vd_gateway_text_put(t, s, id, out);
    uint64_t characters = 0;
    for (size_t i = 0; i < n; i++)
        characters += ((uint8_t)out[i] & 0xC0) != 0x80;
    return characters;
}

struct json_t *vd_gateway_text_logprobs(const struct vd_gateway_text *t, enum vd_openai_kind kind,
                                        const uint32_t *ids, const uint8_t *logprob, size_t each,
                                        struct vd_gateway_text_place *at, uint32_t to)
{
    json_t *content = json_array(), *tokens = json_array(), *own = json_array(), *top = json_array(),
           *offset = json_array();
    for (uint32_t i = at->n_tok; i < to; i++) {
        const uint8_t *p = logprob + each * i;
        if (vd_gateway_text_is_stop(t, ids[i]))
            continue;
        if (kind == VD_OPENAI_CHAT) {
            json_array_append_new(content, chat_entry(t, ids[i], p));
            continue;
        }
        json_array_append_new(tokens, vd_openai_token_text(t->tok, ids[i]));
        json_array_append_new(own, vd_openai_logprob_value(value_of(p)));
        json_array_append_new(top, completion_top(t, p));
        json_array_append_new(offset, json_integer((json_int_t)at->n_characters));
        at->n_characters += characters_of(t, &at->text, ids[i]);
    }
    at->n_tok = to;
    json_t *all = kind == VD_OPENAI_CHAT
                      ? json_pack("{s:O, s:n}", "content", content, "refusal")
                      : json_pack("{s:O, s:O, s:O, s:O}", "tokens", tokens, "token_logprobs", own,
                                  "top_logprobs", top, "text_offset", offset);
    json_decref(offset);
    json_decref(content);
    json_decref(tokens);
    json_decref(own);
    json_decref(top);
    return all;
}
