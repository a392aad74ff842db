/* Answers that may call tools: which texts the mask takes, in every form of a call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vd_automaton.h"
#include "vd_calls.h"
#include "vd_gguf_write.h"
#include "vd_test_mask.h"
#include "vd_texts.h"

#define SHOW                                                                                                 \
    "{\"name\":\"show\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{\"n\":{"         \
    "\"type\":\"integer\"},\"s\":{\"type\":\"string\"},\"unit\":{\"type\":\"string\",\"enum\":[\"C\","       \
    "\"F\"]}},\"required\":[\"n\"]}}"
#define TREE                                                                                                 \
    "{\"name\":\"tree\",\"strict\":true,\"parameters\":{\"$defs\":{\"t\":{\"type\":\"object\","              \
    "\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"required\":["       \
    "\"kids\"]}},\"type\":\"object\",\"properties\":{\"root\":{\"$ref\":\"#/$defs/t\"}},\"required\":["      \
    "\"root\"]}}"
#define TOOLS "\"tools\":[" SHOW ",{\"name\":\"any\"},{\"name\":\"now\",\"strict\":true}," TREE "]"

static uint8_t mask[VD_MASK_BYTES_MAX];
static size_t n_mask;
static const struct vd_hash root = {{1}};

static void compile(const char *spec, uint32_t forms)
{
    struct vd_error err;
    if (vd_calls_compile(spec, strlen(spec), forms, &root, mask, &n_mask, &err) != VD_OK)
        fail_msg("%s", err.msg);
}

static bool takes(const char *text)
{
    return vd_test_mask_takes((struct vd_bytes){mask, n_mask}, text);
}

/* Lists end with NULL. */
static void check(const char *const *good, const char *const *bad)
{
    for (; *good; good++)
        if (!takes(*good))
            fail_msg("'%s' should be taken", *good);
    for (; *bad; bad++)
        if (takes(*bad))
            fail_msg("'%s' should not be taken", *bad);
}

#define TAG(call) "<tool_call>" call "</tool_call>"

static void test_tagged(void **state)
{
    static const char *const good[] = {
        "",
        "Hello.\n\"\\<b> [1] < {\"a\": 1} \xC3\xA9",
        "{\"name\": \"other\", \"arguments\": {}}",
        "{\"name\": \"show",
        "{\"names\": \"show\"}",
        "x {\"name\": \"show\", 5}",
        "<tool_cal",
        "[TOOL_CALLS",
        "<function",
        TAG("{\"name\": \"show\", \"arguments\": {\"n\": 5}}"),
        "Let me see.\n" TAG("\n{\"name\": \"show\", \"arguments\": {\"n\": 5, \"unit\": \"C\"}}\n"),
        "<<<" TAG("{\"name\":\"any\",\"parameters\":{\"x\":[1,{\"y\":null}]}}") "\n",
        TAG("{\"name\":\"now\",\"arguments\":{}}") "\n" TAG("{\"name\":\"any\",\"arguments\":{}}"),
        TAG("{\"name\":\"tree\",\"arguments\":{\"root\":{\"kids\":[{\"kids\":[]},{\"kids\":[]}]}}}"),
        TAG("{\"name\":\"show\",\"arguments\":{\"n\":1,\"s\":\"<tool_call>[TOOL_CALLS]\"}}"),
        " \n{\"name\": \"show\", \"parameters\": {\"n\": 5}}",
        "{\"name\":\"now\",\"arguments\":{}}; {\"name\":\"show\",\"arguments\":{\"n\":1}}\n",
        NULL};
    static const char *const bad[] = {"<tool_call>",
                                      "<tool_call>Hello",
                                      "x<tool_call>{\"name\": \"show\", \"arguments\": {\"n\": 5}}",
                                      TAG("{\"name\": \"shows\", \"arguments\": {\"n\": 5}}"),
                                      TAG("{\"name\": \"show\", \"arguments\": {}}"),
                                      TAG("{\"name\": \"show\", \"arguments\": {\"n\": 5, \"m\": 5}}"),
                                      TAG("{\"name\": \"show\", \"arguments\": {\"n\": \"5\"}}"),
                                      TAG("{\"name\": \"show\", \"arguments\": {\"n\": 5, \"unit\": \"K\"}}"),
                                      TAG("{\"name\": \"now\", \"arguments\": {\"n\": 5}}"),
                                      TAG("{\"name\": \"any\", \"arguments\": 5}"),
                                      TAG("{\"name\":\"tree\",\"arguments\":{\"root\":{\"kids\":[1]}}}"),
                                      TAG("<function=show>"),
                                      TAG("{\"name\":\"now\",\"arguments\":{}}") "Done.",
                                      "{\"name\": \"show\"",
                                      "{ \"name\" :\n\"show\", \"x\": 1}",
                                      "{\"name\":\"show\",\"arguments\":{\"n\":1}} and",
                                      "see [TOOL_CALLS]",
                                      "see <|python_tag|>",
                                      "<function=",
                                      NULL};
    (void)state;
    compile("{" TOOLS "}", 1u << VD_CALLS_TAGGED);
    check(good, bad);
}

static void test_one(void **state)
{
    static const char *const good[] = {TAG("{\"name\":\"now\",\"arguments\":{}}") "\n",
                                       "{\"name\":\"now\",\"arguments\":{}}", NULL};
    static const char *const bad[] = {
        TAG("{\"name\":\"now\",\"arguments\":{}}") TAG("{\"name\":\"now\",\"arguments\":{}}"),
        "{\"name\":\"now\",\"arguments\":{}};{\"name\":\"now\",\"arguments\":{}}", NULL};
    (void)state;
    compile("{" TOOLS ",\"one\":true}", 1u << VD_CALLS_TAGGED);
    check(good, bad);
}

static void test_beside_a_schema(void **state)
{
    static const char *const good[] = {"{\"a\": true}", TAG("{\"name\":\"now\",\"arguments\":{}}"), NULL};
    static const char *const bad[] = {"",
                                      "Hello",
                                      "x" TAG("{\"name\":\"now\",\"arguments\":{}}"),
                                      "{\"name\":\"now\",\"arguments\":{}}",
                                      "{\"a\": true}" TAG("{\"name\":\"now\",\"arguments\":{}}"),
                                      NULL};
    (void)state;
    compile("{" TOOLS ",\"text\":{\"properties\":{\"a\":{\"type\":\"boolean\"}},\"required\":[\"a\"]}}",
            1u << VD_CALLS_TAGGED);
    check(good, bad);
}

#define P(k, v)   "<parameter=" k ">" v "</parameter>"
#define XML(n, p) "<function=" n ">" p "</function>"

static void test_tagged_xml(void **state)
{
    static const char *const good[] = {
        "a < b",
        TAG("\n" XML("show",
                     "\n" P("n", "\n5\n") "\n" P("s", "\nany < text\n</p>\n") "\n" P("unit", "C") "\n") "\n"),
        TAG(XML("now", "")) TAG(XML("now", "\n")),
        TAG(XML("any", P("x", "1") P("y", "a b"))),
        TAG(XML("tree", P("root", "{\"kids\":[]}"))),
        NULL};
    static const char *const bad[] = {TAG("{\"name\":\"now\",\"arguments\":{}}"),
                                      TAG(XML("show", "")),
                                      TAG(XML("show", P("n", "five"))),
                                      TAG(XML("show", P("n", "5") P("unit", "K"))),
                                      TAG(XML("show", P("n", "5") P("x", "1"))),
                                      TAG(XML("now", P("x", "1"))),
                                      TAG(XML("tree", P("root", "{\"kids\":[5]}"))),
                                      TAG(XML("shows", P("n", "5"))),
                                      XML("now", ""),
                                      TAG(XML("now", "")) "x",
                                      NULL};
    static const char *const no_tag[] = {
        "\"p\":{\"type\":\"string\",\"maxLength\":5}",
        "\"p\":{\"type\":\"string\",\"format\":\"date\"}",
        "\"p\":{\"type\":\"string\",\"anyOf\":[{\"const\":\"a\"},{\"const\":\"b\"}]}",
        "\"p\":{\"type\":\"string\",\"enum\":[\"a\",\"\\nb\"]}",
        "\"p\":{\"type\":\"string\",\"const\":\"b\\n\"}",
        "\"p\":{\"type\":\"string\",\"const\":\"a</parameter><parameter=b>c\"}",
        "\"p \":{\"type\":\"string\"}",
        "\"p\":{\"type\":\"string\"}},\"anyOf\":[{\"properties\":{\"p\":{\"const\":\"a\"}}}],\"$defs\":{",
    };
    const char *bounded = "{\"tools\":[{\"name\":\"f\",\"strict\":true,\"parameters\":{\"type\":\"object\","
                          "\"properties\":{\"zip\":{\"type\":\"string\",\"maxLength\":5}}}}]}";
    struct vd_error err;
    (void)state;
    compile("{" TOOLS "}", 1u << VD_CALLS_TAGGED_XML);
    check(good, bad);
    assert_int_equal(
        vd_calls_compile(bounded, strlen(bounded), 1u << VD_CALLS_TAGGED_XML, &root, mask, &n_mask, &err),
        VD_EUSE);
    assert_non_null(strstr(err.msg, "#/tools/0/function/parameters/properties/zip"));
    compile(bounded, 1u << VD_CALLS_TAGGED);
    for (size_t i = 0; i < sizeof no_tag / sizeof no_tag[0]; i++) {
        char spec[512];
        snprintf(spec, sizeof spec,
                 "{\"tools\":[{\"name\":\"f\",\"strict\":true,\"parameters\":{\"properties\":{%s}}}]}",
                 no_tag[i]);
        if (vd_calls_compile(spec, strlen(spec), 1u << VD_CALLS_TAGGED_XML, &root, mask, &n_mask, &err) !=
            VD_EUSE)
            fail_msg("%s should be refused", spec);
    }
}

#define DEEP(calls) VD_CALLS_BEGIN calls VD_CALLS_END

static void test_other_forms(void **state)
{
    static const struct {
        enum vd_calls_form form;
        const char *good[4], *bad[4];
    } cases[] = {
        {VD_CALLS_FUNCTION,
         {"x" XML("now", "{}") "\n" XML("show", "{\"n\":1}"), NULL},
         {XML("now", ""), XML("show", "{}"), "<tool_call>", NULL}},
        {VD_CALLS_MISTRAL,
         {"[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}]",
          "x[TOOL_CALLS][{\"name\":\"now\",\"arguments\":{}}, {\"name\":\"any\",\"arguments\":{}}]", NULL},
         {"[TOOL_CALLS] []", "[TOOL_CALLS]now[ARGS]{}", NULL}},
        {VD_CALLS_MISTRAL_ARGS,
         {"[TOOL_CALLS]show[ARGS]{\"n\": 1}[TOOL_CALLS]now[ARGS]{}", NULL},
         {"[TOOL_CALLS]show[ARGS]{}", "[TOOL_CALLS]shows[ARGS]{\"n\": 1}", NULL}},
        {VD_CALLS_MISTRAL_CALL_ID,
         {"[TOOL_CALLS]now[CALL_ID]aB3456789[ARGS]{}", NULL},
         {"[TOOL_CALLS]now[ARGS]{}", NULL}},
        {VD_CALLS_LIST,
         {"<|tool_call|>[{\"name\":\"now\",\"arguments\":{}}]<|/tool_call|>",
          "<|tool_call|>[{\"name\":\"now\",\"arguments\":{}}]", NULL},
         {"<|tool_call|>{\"name\":\"now\",\"arguments\":{}}", NULL}},
        {VD_CALLS_PYTHON,
         {"<|python_tag|>{\"name\": \"show\", \"parameters\": {\"n\": 1}}",
          "{\"name\": \"show\", \"parameters\": {\"n\": 1}}", NULL},
         {"<|python_tag|>print(1)", "{\"name\": \"show\", \"parameters\": {}}", NULL}},
        {VD_CALLS_DEEPSEEK_BLOCK,
         {DEEP(VD_CALL_BEGIN "function" VD_CALL_SEP "now\n```json\n{}\n```" VD_CALL_END), NULL},
         {DEEP(VD_CALL_BEGIN "now" VD_CALL_SEP "{}" VD_CALL_END), DEEP(""), NULL}},
        {VD_CALLS_DEEPSEEK,
         {DEEP(VD_CALL_BEGIN "now" VD_CALL_SEP "{}" VD_CALL_END),
          DEEP(VD_CALL_BEGIN "now" VD_CALL_SEP "{}" VD_CALL_END "\n" VD_CALL_BEGIN "any" VD_CALL_SEP
                             "{\"x\":1}" VD_CALL_END),
          NULL},
         {DEEP(VD_CALL_BEGIN "show" VD_CALL_SEP "{}" VD_CALL_END), NULL}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        compile("{" TOOLS "}", 1u << cases[i].form);
        check(cases[i].good, cases[i].bad);
    }
}

static void test_forms_of_templates(void **state)
{
    static const struct {
        const char *text;
        enum vd_calls_form form;
    } cases[] = {
        {"..<tool_call>\\n{\"name\": ..", VD_CALLS_TAGGED},
        {"..<tool_call>\\n<function=example>", VD_CALLS_TAGGED_XML},
        {"..<function=example>{..", VD_CALLS_FUNCTION},
        {"'[TOOL_CALLS] ['", VD_CALLS_MISTRAL},
        {"'[TOOL_CALLS]' + name + '[ARGS]'", VD_CALLS_MISTRAL_ARGS},
        {"'[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]'", VD_CALLS_MISTRAL_CALL_ID},
        {"<|tool_call|>", VD_CALLS_LIST},
        {"<|python_tag|>", VD_CALLS_PYTHON},
        {VD_CALLS_BEGIN "function\\n```json", VD_CALLS_DEEPSEEK_BLOCK},
        {VD_CALLS_BEGIN, VD_CALLS_DEEPSEEK},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(vd_calls_forms(cases[i].text, strlen(cases[i].text)), 1u << cases[i].form);
    assert_int_equal(vd_calls_forms(NULL, 0), 0);
}

/* No form at all: a call is JSON without a mark. Many tools fit. */
static void test_sizes(void **state)
{
    static char spec[1 << 16];
    size_t n = (size_t)snprintf(spec, sizeof spec, "{\"tools\":[");
    (void)state;
    compile("{" TOOLS "}", 0);
    assert_true(takes("{\"name\":\"now\",\"arguments\":{}}") && takes("[]") && !takes("<tool_call>"));
    for (unsigned i = 0; i < 100; i++)
        n += (size_t)snprintf(
            spec + n, sizeof spec - n,
            "%s{\"name\":\"a_tool_%u\",\"strict\":true,\"parameters\":{\"type\":\"object\","
            "\"properties\":{\"value\":{\"type\":\"string\"},\"n%u\":{\"type\":\"integer\"}}}}",
            i ? "," : "", i, i);
    snprintf(spec + n, sizeof spec - n, "]}");
    compile(spec, 1u << VD_CALLS_TAGGED);
    assert_true(takes(TAG("{\"name\":\"a_tool_99\",\"arguments\":{\"value\":\"x\",\"n99\":1}}")));
    assert_false(takes(TAG("{\"name\":\"a_tool_99\",\"arguments\":{\"value\":\"x\",\"n98\":1}}")));
}

static void test_refused(void **state)
{
    static const struct {
        const char *spec, *says;
    } cases[] = {
        {"{\"tools\":[]}", "1 to 128"},
        {"{\"tools\":[{\"name\":\"\"}]}", "1 to 128"},
        {"{\"tools\":[{\"name\":\"f\"},{\"name\":\"g\",\"strict\":true,\"parameters\":{\"properties\":{\"a\":"
         "{"
         "\"not\":{}}}}}]}",
         "#/tools/1/function/parameters/properties/a"},
        {"{\"tools\":[{\"name\":\"a b\"}]}", "blanks"},
    };
    struct vd_error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(vd_calls_compile(cases[i].spec, strlen(cases[i].spec), 1u << VD_CALLS_FUNCTION,
                                          &root, mask, &n_mask, &err),
                         VD_EUSE);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, cases[i].says);
    }
    compile(cases[3].spec, 1u << VD_CALLS_TAGGED);
    assert_true(takes(TAG("{\"name\":\"a b\",\"arguments\":{}}")));
}

/* Of control tokens only the marks have a text. */
static void test_marks_are_text(void **state)
{
    static const char *const token[] = {"a", "<s>", "[TOOL_CALLS]", "<x>"}, *const text[] = {"a", "",
                                                                                             "[TOOL_CALLS]",
                                                                                             "<x>"};
    const int32_t kind[] = {1, 3, 3, 4};
    struct vd_gguf_str names[4];
    struct vd_gguf_writer *w = vd_gguf_writer_new(1 << 16);
    struct vd_gguf *g;
    struct vd_texts *t;
    struct vd_error err;
    uint8_t *file;
    size_t n;
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        names[i] = (struct vd_gguf_str){token[i], strlen(token[i])};
    vd_gguf_add_str(w, "tokenizer.ggml.model", "gpt2");
    vd_gguf_add_str(w, "tokenizer.ggml.pre", "smollm");
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", names, 4);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", kind, 4);
    vd_gguf_add_array_str(w, "tokenizer.ggml.merges", names, 0);
    assert_int_equal(vd_gguf_writer_finish(w, &file, &n, &err), VD_OK);
    vd_gguf_writer_free(w);
    assert_int_equal(vd_gguf_open(&g, file, n, "small.gguf", &err), VD_OK);
    assert_int_equal(vd_texts_open(&t, g, 5, &err), VD_OK);
    for (uint32_t i = 0; i < 5; i++) {
        struct vd_bytes b = vd_texts_of(t, i);
        assert_int_equal(b.n, i < 4 ? strlen(text[i]) : 0);
        assert_true(b.n == 0 || memcmp(b.p, text[i], b.n) == 0);
    }
    vd_texts_free(t);
    vd_gguf_close(g);
    free(file);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tagged),          cmocka_unit_test(test_one),
        cmocka_unit_test(test_beside_a_schema), cmocka_unit_test(test_tagged_xml),
        cmocka_unit_test(test_other_forms),     cmocka_unit_test(test_forms_of_templates),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_refused),
        cmocka_unit_test(test_marks_are_text)};
    return cmocka_run_group_tests_name("calls", tests, NULL, NULL);
}
