/* Request bodies: the first byte chooses the endpoint. What parses is used in full (every string and id is
 * read), and what does not must say why in an error that formats. */
#include "vd_openai_embed.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static unsigned sum_of(struct vd_openai_text t)
{
    unsigned sum = 0;
    for (size_t i = 0; i < t.n; i++)
        sum += (unsigned char)t.p[i];
    return sum + (t.p ? strlen(t.p) != t.n : 0);
}

static unsigned sum_of_value(const struct vd_value *v)
{
    unsigned sum = 0;
    size_t n = v->type == VD_VALUE_MAP ? 2 * v->list.n : v->type == VD_VALUE_LIST ? v->list.n : 0;
    if (v->type == VD_VALUE_STR)
        return sum_of((struct vd_openai_text){v->s.p, v->s.n});
    for (size_t i = 0; i < n; i++)
        sum += sum_of_value(&v->list.p[i]);
    return sum;
}

static void use(const struct vd_openai_request *r)
{
    unsigned sum = (unsigned)strlen(r->model) + sum_of(r->prompt);
    sum += sum_of_value(&r->messages) + sum_of_value(&r->messages_text) + sum_of_value(&r->tools) +
           sum_of_value(&r->template_args);
    for (size_t i = 0; i < r->n_ids; i++)
        sum += r->ids[i];
    if (r->sampling.temp_micro > 2000000 || r->sampling.top_p_micro < 1 ||
        r->sampling.top_p_micro > 1000000 || r->sampling.min_p_micro > 1000000 ||
        r->max_tokens > VD_JOB_MAX_TOKENS)
        abort();
    struct vd_openai_reply reply = {.kind = r->kind,
                                    .id = "x",
                                    .model = r->model,
                                    .text = r->prompt.p ? r->prompt.p : "",
                                    .n_text = r->prompt.n,
                                    .finish = VD_FINISH_STOP,
                                    .receipt_id = "00",
                                    .n_prompt = sum};
    char *text = vd_openai_format_reply(&reply);
    if (!text)
        abort();
    free(text);
}

static void use_embed(struct vd_openai_embed *r)
{
    static const uint32_t bits[] = {0x3f000000, 0xbf000000};
    struct vd_openai_error e;
    for (size_t i = 0; i < r->n_inputs; i++)
        if ((r->input[i].text.n == 0 && r->input[i].n_ids == 0) ||
            !vd_openai_embed_add(r, bits, 2, 1, "00", (struct vd_amount){1}, &e))
            abort();
    char *text = vd_openai_embed_format(r);
    if (!text)
        abort();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_openai_request r;
    struct vd_openai_embed embed;
    struct vd_openai_error e;
    if (n_bytes < 1)
        return 0;
    if (data[0] == 2) {
        if (vd_openai_embed_parse(&embed, (struct vd_bytes){data + 1, n_bytes - 1}, &e)) {
            use_embed(&embed);
            vd_openai_embed_free(&embed);
        }
        return 0;
    }
    enum vd_openai_kind kind = data[0] & 1 ? VD_OPENAI_COMPLETION : VD_OPENAI_CHAT;
    if (vd_openai_parse(&r, kind, (struct vd_bytes){data + 1, n_bytes - 1}, &e)) {
        use(&r);
        vd_openai_request_free(&r);
        return 0;
    }
    char *text = vd_openai_format_error(&e);
    if (!text || e.status < 400 || !e.message[0])
        abort();
    free(text);
    return 0;
}
