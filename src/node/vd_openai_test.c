/* What each parameter may be, which error names it, and that responses have the fields that clients read.
 * Given a folder, writes the accepted and refused bodies there: the seeds of tests/corpus/vd_openai_fuzz. */
#include "vd_openai.h"
#include "vd_tool_call.h"
#include "vd_rules.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static const char *corpus_dir;

static bool parse(struct vd_openai_request *r, enum vd_openai_kind kind, const char *body,
                  struct vd_openai_error *e)
{
    static int n_saved;
    if (corpus_dir) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%03d", corpus_dir, n_saved++);
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        fputc(kind == VD_OPENAI_CHAT ? 0 : 1, f);
        fputs(body, f);
        fclose(f);
    }
    return vd_openai_parse(r, kind, (struct vd_bytes){(const uint8_t *)body, strlen(body)}, e);
}

/* A string member of a message. */
static const char *member(const struct vd_value *messages, size_t i, const char *key)
{
    const struct vd_value *v = vd_value_get(&messages->list.p[i], vd_str_of(key));
    assert_non_null(v);
    assert_int_equal(v->type, VD_VALUE_STR);
    return v->s.p;
}

#define CHAT(rest) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" rest "}"
#define COMP(rest) "{\"model\":\"m\",\"prompt\":\"hi\"" rest "}"

static void test_chat(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    assert_true(parse(&r, VD_OPENAI_CHAT,
                      "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be kind\"},"
                      "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
                      "\"text\":\"\\u00e4\"}]},"
                      "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null,\"annotations\":[]}],"
                      "\"temperature\":0.7,\"top_p\":0.95,"
                      "\"top_k\":40,\"min_p\":0.05,\"seed\":-1,\"max_completion_tokens\":77,\"stream\":true,"
                      "\"stream_options\":{\"include_usage\":true}}",
                      &e));
    assert_int_equal(r.messages.list.n, 3);
    assert_string_equal(member(&r.messages, 0, "role"), "system");
    assert_string_equal(member(&r.messages, 1, "content"), "a\xc3\xa4");
    assert_string_equal(member(&r.messages, 2, "content"), "");
    assert_int_equal(r.tools.type, VD_VALUE_UNDEFINED);
    assert_int_equal(r.sampling.temp_micro, 700000);
    assert_int_equal(r.sampling.top_p_micro, 950000);
    assert_int_equal(r.sampling.top_k, 40);
    assert_int_equal(r.sampling.min_p_micro, 50000);
    assert_true(r.has_seed && r.sampling.seed == UINT64_MAX);
    assert_int_equal(r.max_tokens, 77);
    assert_true(r.stream && r.include_usage);
    vd_openai_request_free(&r);
}

static void test_defaults(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(",\"temperature\":null,\"seed\":null"), &e));
    assert_int_equal(r.sampling.temp_micro, 1000000);
    assert_int_equal(r.sampling.top_p_micro, 1000000);
    assert_int_equal(r.max_tokens, 0);
    assert_false(r.has_seed || r.stream || r.include_usage);
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_COMPLETION, COMP(""), &e));
    assert_int_equal(r.max_tokens, VD_OPENAI_MAX_TOKENS_DEFAULT);
    assert_string_equal(r.prompt.p, "hi");
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(",\"top_p\":0"), &e));
    assert_int_equal(r.sampling.top_p_micro, 1);
    vd_openai_request_free(&r);
}

static void test_completion_prompts(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    const char *ids[] = {"{\"model\":\"m\",\"prompt\":[1,2,3]}", "{\"model\":\"m\",\"prompt\":[[1,2,3]]}"};
    for (int i = 0; i < 2; i++) {
        assert_true(parse(&r, VD_OPENAI_COMPLETION, ids[i], &e));
        assert_null(r.prompt.p);
        assert_int_equal(r.n_ids, 3);
        assert_int_equal(r.ids[2], 3);
        vd_openai_request_free(&r);
    }
    assert_true(parse(&r, VD_OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"one\"]}", &e));
    assert_string_equal(r.prompt.p, "one");
    vd_openai_request_free(&r);
    const char *bad[] = {"{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}",
                         "{\"model\":\"m\",\"prompt\":[]}",
                         "{\"model\":\"m\",\"prompt\":[1,-2]}",
                         "{\"model\":\"m\",\"prompt\":[1,\"b\"]}",
                         "{\"model\":\"m\",\"prompt\":{}}",
                         "{\"model\":\"m\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(parse(&r, VD_OPENAI_COMPLETION, bad[i], &e));
        assert_int_equal(e.status, 400);
        assert_string_equal(e.param, "prompt");
    }
}

static void test_harmless_values(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    assert_true(parse(
        &r, VD_OPENAI_CHAT,
        CHAT(
            ",\"n\":1,\"presence_penalty\":0,\"frequency_penalty\":0.0,\"logprobs\":false,\"top_logprobs\":"
            "null,"
            "\"stop\":null,\"logit_bias\":{},\"user\":\"u\",\"store\":false,\"tools\":[],\"tool_choice\":"
            "\"none\","
            "\"response_format\":{\"type\":\"text\"},\"parallel_tool_calls\":true,\"metadata\":{\"a\":\"b\"},"
            "\"service_tier\":\"auto\",\"modalities\":[\"text\"],\"repetition_penalty\":1"),
        &e));
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_COMPLETION,
                      COMP(",\"best_of\":1,\"echo\":false,\"suffix\":null,\"logprobs\":null,\"stop\":[]"),
                      &e));
    vd_openai_request_free(&r);
}

static void test_controls(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    assert_true(
        parse(&r, VD_OPENAI_CHAT,
              CHAT(",\"presence_penalty\":-1.5,\"frequency_penalty\":0.25,\"repetition_penalty\":1.3,"
                   "\"logit_bias\":{\"700\":-100,\"3\":0.5,\"9\":0},\"stop\":[\"END\",\"\\n\"],"
                   "\"logprobs\":true,\"top_logprobs\":4,\"response_format\":{\"type\":\"json_schema\","
                   "\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":\"null\"}}}"),
              &e));
    assert_int_equal(r.sampling.presence_micro, -1500000);
    assert_int_equal(r.sampling.frequency_micro, 250000);
    assert_int_equal(r.sampling.repeat_micro, 1300000);
    assert_int_equal(r.sampling.repeat_last_n, VD_REPEAT_LAST_DEFAULT);
    assert_true(vd_bias_valid(r.bias) && vd_bias_count(r.bias) == 2);
    assert_true(vd_bias_id(r.bias, 0) == 3 && vd_bias_micro(r.bias, 0) == 500000);
    assert_true(vd_bias_id(r.bias, 1) == 700 && vd_bias_micro(r.bias, 1) == -100000000);
    assert_true(r.stop.n == 2 && r.stop.text[1].n == 1 && r.stop.text[1].p[0] == '\n');
    assert_int_equal(r.logprobs, 5);
    assert_int_equal(r.format.kind, VD_OPENAI_FORMAT_SCHEMA);
    assert_string_equal(r.format.text.p, "{\"type\":\"null\"}");
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_COMPLETION, COMP(",\"stop\":\"x\",\"logprobs\":0"), &e));
    assert_true(r.stop.n == 1 && r.logprobs == 1 && r.sampling.repeat_micro == 0);
    vd_openai_request_free(&r);
}

/* Two tools; the second one's parameters recurse. */
#define F                                                                                                    \
    ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"now\"}},{\"type\":\"function\","            \
    "\"function\":"                                                                                          \
    "{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\","      \
    "\"items\":"                                                                                             \
    "{\"$ref\":\"#\"}}}}}}]"

#define TOOL(name) "{\"type\":\"function\",\"function\":{\"name\":\"" name "\"}}"
#define STRICT     ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"s\",\"strict\":true}}]"

static bool schema_takes(const struct vd_openai_request *r, const char *text)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    const struct vd_hash root = {{0}};
    struct vd_automaton a;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    struct vd_error err = {0};
    size_t n;
    if (vd_schema_compile(r->format.text.p, r->format.text.n, &root, mask, &n, &err) != VD_OK)
        fail_msg("%s", err.msg);
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n}));
    for (; *text; text++)
        if (!vd_automaton_step(&a, &s, (uint8_t)*text))
            return false;
    return vd_automaton_may_end(&a, &s);
}

/* A call that the client demands is a form of the answer. */
static void test_demanded_calls(void **state)
{
    struct vd_openai_request r;
    struct vd_openai_error e;
    const char *now = "{\"name\": \"now\", \"arguments\": {}}",
               *f = "{\"name\":\"f\",\"arguments\":{\"kids\":[{\"kids\":[]},{}]}}";
    (void)state;
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(F ",\"tool_choice\":\"required\""), &e));
    assert_int_equal(r.format.kind, VD_OPENAI_FORMAT_CALL);
    assert_true(schema_takes(&r, now) && schema_takes(&r, f));
    assert_false(schema_takes(&r, "Hello") || schema_takes(&r, "{\"name\":\"now\"}") ||
                 schema_takes(&r, "{\"name\":\"g\",\"arguments\":{}}") ||
                 schema_takes(&r, "{\"name\":\"now\",\"arguments\":{\"kids\":[]}}") ||
                 schema_takes(&r, "{\"name\":\"f\",\"arguments\":{\"kids\":[{\"name\":\"now\"}]}}"));
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_CHAT,
                      CHAT(F ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"), &e));
    assert_true(schema_takes(&r, f) && !schema_takes(&r, now));
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(STRICT ",\"tool_choice\":\"required\""), &e));
    assert_true(schema_takes(&r, "{\"name\":\"s\",\"arguments\":{}}"));
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(STRICT ",\"tool_choice\":\"none\""), &e));
    vd_openai_request_free(&r);
    assert_true(parse(&r, VD_OPENAI_CHAT, CHAT(F ",\"tool_choice\":\"auto\""), &e));
    assert_int_equal(r.format.kind, VD_OPENAI_FORMAT_TEXT);
    vd_openai_request_free(&r);
}

/* With "auto", a strict tool or JSON beside tools gives the form that vd_calls.h reads. */
static void test_may_call(void **state)
{
    static const struct {
        const char *body;
        unsigned how;
        const char *form;
    } cases[] = {
        {CHAT(STRICT), VD_TOOL_NAMED, "{\"tools\":[{\"name\":\"s\",\"strict\":true}],\"one\":false}"},
        {CHAT(STRICT ",\"tool_choice\":\"auto\",\"parallel_tool_calls\":false"), VD_TOOL_NAMED | VD_TOOL_ONE,
         "{\"tools\":[{\"name\":\"s\",\"strict\":true}],\"one\":true}"},
        {CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
              "\"object\"}}},"
              "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{\"type\":\"object\"},"
              "\"strict\":true}"
              "}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{"
              "\"type\":"
              "\"null\"}}}"),
         VD_TOOL_MARKED,
         "{\"tools\":[{\"name\":\"f\",\"strict\":false},{\"name\":\"g\",\"strict\":true,\"parameters\":{"
         "\"type\":"
         "\"object\"}}],\"one\":false,\"text\":{\"type\":\"null\"}}"},
        {CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"response_format\":{"
              "\"type\":"
              "\"json_object\"}"),
         VD_TOOL_MARKED,
         "{\"tools\":[{\"name\":\"f\",\"strict\":false}],\"one\":false,\"text\":{\"type\":\"object\"}}"},
    };
    struct vd_openai_request r;
    struct vd_openai_error e;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(parse(&r, VD_OPENAI_CHAT, cases[i].body, &e));
        assert_int_equal(r.format.kind, VD_OPENAI_FORMAT_TOOLS);
        assert_int_equal(r.tool_how, cases[i].how);
        assert_string_equal(r.format.text.p, cases[i].form);
        vd_openai_request_free(&r);
    }
}

static void test_refused_by_name(void **state)
{
    static const struct {
        const char *body, *param;
    } bad[] = {
        {CHAT(",\"n\":0"), "n"},
        {CHAT(",\"n\":17"), "n"},
        {CHAT(",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), "stop"},
        {CHAT(",\"stop\":[\"\"]"), "stop"},
        {CHAT(",\"stop\":3"), "stop"},
        {CHAT(",\"logprobs\":1"), "logprobs"},
        {CHAT(",\"top_logprobs\":2"), "top_logprobs"},
        {CHAT(",\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs"},
        {CHAT(",\"presence_penalty\":2.1"), "presence_penalty"},
        {CHAT(",\"frequency_penalty\":\"x\""), "frequency_penalty"},
        {CHAT(",\"repetition_penalty\":0"), "repetition_penalty"},
        {CHAT(",\"repeat_last_n\":1025"), "repeat_last_n"},
        {CHAT(",\"logit_bias\":{\"x\":1}"), "logit_bias"},
        {CHAT(",\"logit_bias\":{\"1\":101}"), "logit_bias"},
        {CHAT(",\"logit_bias\":{\"1\":1,\"01\":2}"), "logit_bias"},
        {CHAT(",\"logit_bias\":[1]"), "logit_bias"},
        {CHAT(",\"response_format\":{\"type\":\"xml\"}"), "response_format.type"},
        {CHAT(",\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema"},
        {CHAT(",\"response_format\":\"text\""), "response_format"},
        {CHAT(",\"tools\":[{}]"), "tools[0]"},
        {CHAT(",\"tools\":[" TOOL("a") "," TOOL("b") "," TOOL("a") "]"), "tools[2].function.name"},
        {CHAT(",\"tool_choice\":\"required\""), "tool_choice"},
        {CHAT(STRICT ",\"response_format\":{\"type\":\"grammar\",\"grammar\":\"root ::= [a]\"}"),
         "response_format"},
        {CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"s\",\"strict\":1}}],\"tool_"
              "choice\":"
              "\"required\""),
         "tools[0].function.strict"},
        {CHAT(",\"tool_choice\":\"perhaps\""), "tool_choice"},
        {CHAT(",\"tool_choice\":{\"type\":\"function\"}"), "tool_choice"},
        {CHAT(F ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"), "tool_choice"},
        {CHAT(F ",\"tool_choice\":\"required\",\"response_format\":{\"type\":\"json_object\"}"),
         "tool_choice"},
        {CHAT(",\"store\":true"), "store"},
        {CHAT(",\"unheard_of\":1"), "unheard_of"},
        {CHAT(",\"prompt\":\"x\""), "prompt"},
        {CHAT(",\"temperature\":2.1"), "temperature"},
        {CHAT(",\"temperature\":-0.1"), "temperature"},
        {CHAT(",\"temperature\":\"hot\""), "temperature"},
        {CHAT(",\"top_p\":1.5"), "top_p"},
        {CHAT(",\"top_k\":-1"), "top_k"},
        {CHAT(",\"min_p\":2"), "min_p"},
        {CHAT(",\"seed\":1.5"), "seed"},
        {CHAT(",\"max_tokens\":0"), "max_tokens"},
        {CHAT(",\"max_tokens\":1.5"), "max_tokens"},
        {CHAT(",\"max_tokens\":5,\"max_completion_tokens\":6"), "max_tokens"},
        {CHAT(",\"stream\":1"), "stream"},
        {CHAT(",\"stream_options\":{\"include_usage\":true}"), "stream_options"},
        {CHAT(",\"stream\":true,\"stream_options\":{\"other\":true}"), "stream_options.other"},
        {CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":3}"), "stream_options.include_usage"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "model"},
        {"{\"model\":7,\"messages\":[]}", "model"},
        {"{\"model\":\"m\"}", "messages"},
        {"{\"model\":\"m\",\"messages\":[]}", "messages"},
        {"{\"model\":\"m\",\"messages\":[7]}", "messages[0]"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"function\",\"content\":\"x\"}]}", "messages[0].role"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}",
         "messages[0].tool_call_id"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"bob\"}]}",
         "messages[0].name"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0]"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct vd_openai_request r;
        struct vd_openai_error e;
        if (parse(&r, VD_OPENAI_CHAT, bad[i].body, &e))
            fail_msg("accepted: %s", bad[i].body);
        assert_int_equal(e.status, 400);
        assert_string_equal(e.param, bad[i].param);
        assert_true(e.message[0] != 0);
    }
}

static void test_no_json(void **state)
{
    static const char *const bad[] = {"",
                                      "[",
                                      "[]",
                                      "null",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":\"\xff\"}",
                                      "{\"a\":\"\\u0000\"}",
                                      "{\n\"model\": nope}"};
    struct vd_openai_request r;
    struct vd_openai_error e;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(parse(&r, VD_OPENAI_CHAT, bad[i], &e));
        assert_int_equal(e.status, 400);
    }
    assert_non_null(strstr(e.message, "line 2, column"));
    char *big = calloc(1, VD_OPENAI_BODY_MAX + 1);
    assert_false(
        vd_openai_parse(&r, VD_OPENAI_CHAT, (struct vd_bytes){(uint8_t *)big, VD_OPENAI_BODY_MAX + 1}, &e));
    assert_int_equal(e.status, 413);
    free(big);
}

static json_t *load(char *text)
{
    assert_non_null(text);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    free(text);
    return j;
}

static void test_error_envelope(void **state)
{
    struct vd_openai_error e;
    const char *message, *type;
    json_t *param, *code;
    vd_openai_fail(&e, 401, "invalid_api_key", NULL, "no \xff %s", "key");
    json_t *j = load(vd_openai_format_error(&e));
    assert_int_equal(json_unpack(j, "{s:{s:s, s:s, s:o, s:o}}", "error", "message", &message, "type", &type,
                                 "param", &param, "code", &code),
                     0);
    assert_string_equal(message, "no ? key");
    assert_string_equal(type, "invalid_request_error");
    assert_true(json_is_null(param));
    assert_string_equal(json_string_value(code), "invalid_api_key");
    json_decref(j);
}

static const struct vd_openai_reply answer = {.kind = VD_OPENAI_CHAT,
                                              .id = "chatcmpl-1",
                                              .created_s = 5,
                                              .model = "m",
                                              .text = "h\0i",
                                              .n_text = 3,
                                              .finish = VD_FINISH_LENGTH,
                                              .n_prompt = 10,
                                              .n_output = 2,
                                              .receipt_id = "ab",
                                              .amount = {77}};

static void test_reply(void **state)
{
    json_int_t prompt, completion, total, amount;
    const char *object, *role, *content, *reason, *receipt;
    struct vd_openai_reply r = answer;
    r.text = "h\xc3\xa4";
    json_t *j = load(vd_openai_format_reply(&r));
    assert_int_equal(json_unpack(j, "{s:s, s:[{s:{s:s, s:s}, s:s}], s:{s:I, s:I, s:I}, s:{s:s, s:I}}",
                                 "object", &object, "choices", "message", "role", &role, "content", &content,
                                 "finish_reason", &reason, "usage", "prompt_tokens", &prompt,
                                 "completion_tokens", &completion, "total_tokens", &total, "veridem",
                                 "receipt_id", &receipt, "amount_micro", &amount),
                     0);
    assert_string_equal(object, "chat.completion");
    assert_string_equal(role, "assistant");
    assert_string_equal(content, "h\xc3\xa4");
    assert_string_equal(reason, "length");
    assert_string_equal(receipt, "ab");
    assert_true(prompt == 10 && completion == 2 && total == 12 && amount == 77);
    json_decref(j);
    char *text = vd_openai_format_reply(&answer); /* a NUL in the answer is escaped, not the end of it */
    assert_non_null(strstr(text, "h\\u0000i"));
    free(text);
}

static void test_chunks(void **state)
{
    const char *role, *text, *reason, *receipt;
    json_t *none;
    json_int_t total;
    struct vd_openai_reply r = answer;
    r.text = "hi";
    r.n_text = 2;
    json_t *j = load(vd_openai_format_chunk(&r, VD_OPENAI_PART_ROLE, false));
    assert_int_equal(json_unpack(j, "{s:[{s:{s:s, s:s}, s:n}]}", "choices", "delta", "role", &role, "content",
                                 &text, "finish_reason"),
                     0);
    assert_string_equal(role, "assistant");
    assert_string_equal(text, "");
    assert_null(json_object_get(j, "usage"));
    json_decref(j);
    j = load(vd_openai_format_chunk(&r, VD_OPENAI_PART_TEXT, true));
    assert_int_equal(json_unpack(j, "{s:[{s:{s:s}, s:o}], s:o}", "choices", "delta", "content", &text,
                                 "finish_reason", &none, "usage", &none),
                     0);
    assert_true(json_is_null(none));
    assert_string_equal(text, "hi");
    json_decref(j);
    j = load(vd_openai_format_chunk(&r, VD_OPENAI_PART_FINISH, false));
    assert_int_equal(json_unpack(j, "{s:[{s:{}, s:s}], s:{s:s}}", "choices", "delta", "finish_reason",
                                 &reason, "veridem", "receipt_id", &receipt),
                     0);
    assert_string_equal(reason, "length");
    json_decref(j);
    j = load(vd_openai_format_chunk(&r, VD_OPENAI_PART_USAGE, true));
    assert_int_equal(json_array_size(json_object_get(j, "choices")), 0);
    assert_int_equal(json_unpack(j, "{s:{s:I}, s:{s:s}}", "usage", "total_tokens", &total, "veridem",
                                 "receipt_id", &receipt),
                     0);
    assert_int_equal(total, 12);
    json_decref(j);
    r.kind = VD_OPENAI_COMPLETION;
    j = load(vd_openai_format_chunk(&r, VD_OPENAI_PART_TEXT, false));
    assert_int_equal(json_unpack(j, "{s:s, s:[{s:s}]}", "object", &role, "choices", "text", &text), 0);
    assert_string_equal(role, "text_completion");
    json_decref(j);
}

static void test_models(void **state)
{
    struct vd_openai_model m = {
        .id = "SmolLM2", .created_s = 1, .context_tok = 8192, .n_workers = 2, .price_in = {1}};
    const char *id, *object;
    json_t *j = load(vd_openai_format_models(&m, 1));
    assert_int_equal(json_unpack(j, "{s:s, s:[{s:s}]}", "object", &object, "data", "id", &id), 0);
    assert_string_equal(object, "list");
    assert_string_equal(id, "SmolLM2");
    json_decref(j);
}

int main(int argc, char **argv)
{
    corpus_dir = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_completion_prompts),
        cmocka_unit_test(test_harmless_values),
        cmocka_unit_test(test_may_call),
        cmocka_unit_test(test_refused_by_name),
        cmocka_unit_test(test_controls),
        cmocka_unit_test(test_demanded_calls),
        cmocka_unit_test(test_no_json),
        cmocka_unit_test(test_error_envelope),
        cmocka_unit_test(test_reply),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
