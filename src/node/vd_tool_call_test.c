/* Answers in the formats of several models: the calls in them, what is content, and that a stream never sends
 * a piece of a call, wherever the answer is cut. */
#include "vd_automaton.h"
#include "vd_calls.h"
#include "vd_rng.h"
#include "vd_tool_call.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define TEXT(s) vd_value_str(s, sizeof(s) - 1)

/* Two tools: add, with a string parameter s and a list a, and weather. */
static struct vd_value tools(void)
{
    static struct vd_value type[2], list_type[2], s[4], properties[2], add[4], weather[2], f[2][2], list[2];
    type[0] = TEXT("type");
    type[1] = TEXT("string");
    s[0] = TEXT("s");
    s[1] = vd_value_map(type, 1);
    list_type[0] = TEXT("type");
    list_type[1] = TEXT("array");
    s[2] = TEXT("a");
    s[3] = vd_value_map(list_type, 1);
    properties[0] = TEXT("properties");
    properties[1] = vd_value_map(s, 2);
    add[0] = weather[0] = TEXT("name");
    add[1] = TEXT("add");
    add[2] = TEXT("parameters");
    add[3] = vd_value_map(properties, 1);
    weather[1] = TEXT("weather");
    f[0][0] = f[1][0] = TEXT("function");
    f[0][1] = vd_value_map(add, 2);
    f[1][1] = vd_value_map(weather, 1);
    list[0] = vd_value_map(f[0], 1);
    list[1] = vd_value_map(f[1], 1);
    return vd_value_list(list, 2);
}

#define D(word) "<\uFF5Ctool\u2581" word "\uFF5C>"

/* calls: "name arguments;" for each. content: before | after. */
static const struct {
    const char *text, *calls, *content;
} cases[] = {
    {"Just text.", "", "Just text.|"},
    {"", "", "|"},
    {"a < b, [1], {x} and \"<tool\"", "", "a < b, [1], {x} and \"<tool\"|"},
    {"<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.5, null]}}\n</tool_call>",
     "add {\"a\": 1, \"b\": [2.5, null]};", "|"},
    {"I will look.\n\n<tool_call>\n{\"name\": \"x\", \"arguments\": {\"q\": \"</tool_call> "
     "\u00e9\"}}\n</tool_call>\n"
     "<tool_call>{\"name\": \"y\", \"parameters\": {}}</tool_call>",
     "x {\"q\": \"</tool_call> \u00e9\"};y {};", "I will look.|"},
    {"<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}", "add {\"a\": 1};", "|"},
    {"<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": </tool_call>", "",
     "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": </tool_call>|"},
    {"<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call> Done.", "add {\"a\": 1};",
     "|Done."},
    {"<tool_call>\n<function=add>\n<parameter=a>\n5\n</parameter>\n<parameter=s>\n5\n</parameter>\n"
     "<parameter=t>\ntwo\nlines\n</parameter>\n</function>\n</tool_call>",
     "add {\"a\": 5, \"s\": \"5\", \"t\": \"two\\nlines\"};", "|"},
    {"Hm. <function=weather>{\"city\": \"Paris\"}\n</func", "weather {\"city\": \"Paris\"};", "Hm.|"},
    {"<tool_call>{\"name\": \"add\", \"arguments\": {}} <", "add {};", "|"},
    {"<tool_call>{\"name\": \"add\", \"arguments\": {}}</p", "add {};", "|</p"},
    {"<function=weather>{\"city\": \"Paris\"}</function>", "weather {\"city\": \"Paris\"};", "|"},
    {"[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"weather\", \"arguments\": "
     "{}}]",
     "add {\"a\": 1};weather {};", "|"},
    {"Hm.[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{}",
     "add {\"a\": 1};weather {};", "Hm.|"},
    {"<|tool_call|>[{\"name\": \"add\", \"arguments\": {}}]<|/tool_call|>", "add {};", "|"},
    {"{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}", "weather {\"city\": \"Rome\"};", "|"},
    {" [{\"name\": \"weather\", \"parameters\": {}}]\n", "weather {};", "|"},
    {"{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"weather\", \"parameters\": {}}",
     "add {};weather {};", "|"},
    {"{\"name\": \"Bob\", \"arguments\": {}}", "", "{\"name\": \"Bob\", \"arguments\": {}}|"},
    {"{\"name\": \"weather\", \"age\": 5}", "", "{\"name\": \"weather\", \"age\": 5}|"},
    {"{\"name\": \"weather\", \"parameters\": {}} and so on", "",
     "{\"name\": \"weather\", \"parameters\": {}} and so on|"},
    {"<|python_tag|>{\"name\": \"weather\", \"parameters\": {}}", "weather {};", "|"},
    {D("calls\u2581begin") D("call\u2581begin") "function" D("sep") "add\n```json\n{\"a\": 1}\n```" D(
         "call\u2581end") "\n" D("call\u2581begin") "weather" D("sep") "{}" D("call\u2581end")
         D("calls\u2581end"),
     "add {\"a\": 1};weather {};", "|"},
};

static void expect(const char *text, const char *calls, const char *content, unsigned how)
{
    struct vd_tool_answer a;
    struct vd_value all = tools();
    char got[1000] = "", parts[1000];
    size_t n = strlen(text), i;
    json_t *call;
    vd_tool_read(&a, text, n, &all, "chatcmpl-1", 0, how);
    json_array_foreach(a.calls, i, call)
    {
        const char *name, *arguments, *id, *type;
        size_t used = strlen(got);
        assert_int_equal(json_unpack(call, "{s:s, s:s, s:{s:s, s:s}}", "id", &id, "type", &type, "function",
                                     "name", &name, "arguments", &arguments),
                         0);
        assert_string_equal(type, "function");
        assert_int_equal(strlen(id), 9);
        snprintf(got + used, sizeof got - used, "%s %s;", name, arguments);
    }
    assert_string_equal(got, calls);
    assert_true(!calls[0] == !a.calls);
    assert_true(a.n_content <= a.rest && a.rest <= n);
    snprintf(parts, sizeof parts, "%.*s|%s", (int)a.n_content, text, text + a.rest);
    assert_string_equal(parts, content);
    json_decref(a.calls);
}

static void test_formats(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect(cases[i].text, cases[i].calls, cases[i].content, 0);
    expect("[TOOL_CALLS][{\"name\": \"a\"}, {\"name\": \"b\"}]", "a {};", "|", VD_TOOL_ONE);
}

/* JSON without a mark, under masks. */
static void test_bare(void **state)
{
    static const char *const other[] = {
        "[{\"name\": \"weather\", \"parameters\": {}}]", "{\"parameters\": {}, \"name\": \"weather\"}",
        "{\"name\": \"bob\", \"parameters\": {}}", "{\"name\": \"we\\u0061ther\", \"parameters\": {}}",
        "{\"name\": \"weather\\u0000\", \"parameters\": {}}"};
    static const char named[] = " { \"name\" : \"weather\", \"parameters\": {}}";
    char content[100];
    (void)state;
    expect(named, "weather {};", "|", VD_TOOL_NAMED);
    snprintf(content, sizeof content, "%s|", named);
    expect(named, "", content, VD_TOOL_MARKED);
    expect(other[0], "weather {};", "|", 0);
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        snprintf(content, sizeof content, "%s|", other[i]);
        expect(other[i], "", content, VD_TOOL_NAMED);
        expect(other[i], "", content, VD_TOOL_MARKED);
    }
}

/* A mark in a string of an answer that is JSON begins no call. */
static void test_marks_in_json(void **state)
{
    static const char *const json[] = {
        "[\"<function=add><parameter=a>5</parameter></function>\"]",
        "\"[TOOL_CALLS]add[ARGS]{}\"",
        "[5, \"<tool_call><function=add></function></tool_call>\"]",
        "{\"a\": \"<function=add></function>\"}",
    };
    char content[100];
    (void)state;
    for (size_t i = 0; i < sizeof json / sizeof json[0]; i++) {
        snprintf(content, sizeof content, "%s|", json[i]);
        expect(json[i], "", content, VD_TOOL_MARKED);
    }
    expect("\n<function=add></function>", "add {};", "|", VD_TOOL_MARKED);
}

/* A parameter that is no text, though its schema wants another type: no call under a mask, which would have
 * let it be nothing else. */
static void test_parameters_under_masks(void **state)
{
    static const char *const values[] = {"1e999", "[\"\\ud800\"]", "[\"", "x"};
    char text[200], content[201], call[100];
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        snprintf(text, sizeof text, "<function=add><parameter=a>%s</parameter></function>", values[i]);
        snprintf(content, sizeof content, "%s|", text);
        expect(text, "", content, VD_TOOL_NAMED);
        expect(text, "", content, VD_TOOL_MARKED);
    }
    snprintf(call, sizeof call, "add {\"a\": \"x\"};");
    expect(text, call, "|", 0);
    expect("<function=add><parameter=other>x</parameter></function>", "add {\"other\": \"x\"};", "|",
           VD_TOOL_NAMED);
    expect(D("calls\u2581begin") D("call\u2581begin") "function" D("sep") "{\n\"a\": 1}" D("call\u2581end")
               D("calls\u2581end"),
           "function {\"a\": 1};", "|", VD_TOOL_NAMED);
}

/* ---- what a mask of tools takes is read as calls of these tools ---- */

struct walk {
    struct vd_automaton a;
    struct vd_automaton_state s;
    struct vd_rng r;
    char text[8192];
    size_t n;
};

/* The whole word or nothing. */
static bool follow(struct walk *w, const char *word)
{
    struct vd_automaton_state s = w->s;
    size_t n = strlen(word);
    for (size_t i = 0; i < n; i++)
        if (!vd_automaton_step(&w->a, &s, (uint8_t)word[i]))
            return false;
    memcpy(w->text + w->n, word, n);
    w->n += n;
    w->s = s;
    return true;
}

/* A byte that may follow; what ends something rather often, and no numbers too large for JSON's reader. */
static bool step(struct walk *w)
{
    static const char *const ends[] = {"\"", "}", "]", "</parameter>", "</function>"};
    char byte[2] = {0};
    uint32_t first = vd_rng_below(&w->r, 96);
    if (vd_rng_below(&w->r, 3) == 0 && follow(w, ends[vd_rng_below(&w->r, 5)]))
        return true;
    for (uint32_t i = 0; i < 97; i++) {
        uint32_t k = (first + i) % 97;
        byte[0] = k == 96 ? '\n' : (char)(' ' + k);
        if (*byte == '\\' || ((*byte == 'e' || *byte == 'E') && strchr("0123456789", w->text[w->n - 1])))
            continue;
        if (follow(w, byte))
            return true;
    }
    return follow(w, "\uFF5C") || follow(w, "\u2581");
}

static void check_masked(const struct walk *w, unsigned how)
{
    struct vd_tool_answer a;
    struct vd_value all = tools();
    json_t *call;
    size_t i;
    vd_tool_read(&a, w->text, w->n, &all, "x", 0, how);
    if (!a.calls || a.n_content != 0 || a.rest != w->n)
        fail_msg("not read as calls: %.*s", (int)w->n, w->text);
    json_array_foreach(a.calls, i, call)
    {
        const char *name, *text;
        assert_int_equal(json_unpack(call, "{s:{s:s, s:s}}", "function", "name", &name, "arguments", &text),
                         0);
        json_t *arguments = json_loads(text, 0, NULL), *s = json_object_get(arguments, "s");
        bool add = strcmp(name, "add") == 0 && json_is_integer(json_object_get(arguments, "a")) &&
                   (!s || json_is_string(s)) && json_object_size(arguments) == 1 + (s != NULL);
        if (!(add || (strcmp(name, "weather") == 0 && json_is_object(arguments))))
            fail_msg("'%s' with %s of: %.*s", name, text, (int)w->n, w->text);
        json_decref(arguments);
    }
    json_decref(a.calls);
}

static void test_masked(void **state)
{
    static const char spec[] =
        "{\"tools\":[{\"name\":\"add\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{"
        "\"s\":{\"type\":\"string\"},\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}},{\"name\":"
        "\"weather\"}]}";
    static const char *const begin[] = {
        "<tool_call>",  "<tool_call>",  "<function=",         "[TOOL_CALLS]",
        "[TOOL_CALLS]", "[TOOL_CALLS]", "<|tool_call|>",      "<|python_tag|>",
        VD_CALLS_BEGIN, VD_CALLS_BEGIN, "{\"name\": \"add\"", "{\"name\": \"weather\""};
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static struct walk w;
    size_t n;
    (void)state;
    w.r = (struct vd_rng){3, 0};
    for (unsigned i = 0; i < VD_CALLS_FORMS + 2; i++) {
        uint32_t forms = i < VD_CALLS_FORMS ? 1u << i : 0;
        const struct vd_hash root = {{0}};
        assert_int_equal(vd_calls_compile(spec, sizeof spec - 1, forms, &root, mask, &n, NULL), VD_OK);
        assert_true(vd_automaton_open(&w.a, (struct vd_bytes){mask, n}));
        for (unsigned run = 0, ended = 0; run < 300; run++) {
            w.s = VD_AUTOMATON_START;
            w.n = 0;
            assert_true(follow(&w, begin[i]));
            while (w.n + 64 < sizeof w.text &&
                   !(vd_automaton_may_end(&w.a, &w.s) && vd_rng_below(&w.r, 4) == 0))
                if (!step(&w)) {
                    assert_true(vd_automaton_may_end(&w.a, &w.s));
                    break;
                }
            bool ends = vd_automaton_may_end(&w.a, &w.s);
            if (ends)
                check_masked(&w, VD_TOOL_NAMED);
            ended += ends;
            assert_true(run < 299 || ended > 200);
        }
    }
}

/* Whatever grows byte by byte: what is sent is never taken back and never part of a call. */
static void test_stream(void **state)
{
    (void)state;
    struct vd_value all = tools();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vd_tool_scan scan = {0};
        struct vd_tool_answer a;
        size_t n = strlen(cases[i].text), sent = 0;
        vd_tool_read(&a, cases[i].text, n, &all, "x", 0, 0);
        for (size_t k = 0; k <= n; k++) {
            char *cut = malloc(k + 1); /* so that a sanitizer sees a read past the end */
            memcpy(cut, cases[i].text, k);
            size_t may = vd_tool_content(&scan, cut, k);
            free(cut);
            assert_true(may >= sent && may <= k);
            sent = may;
        }
        if (sent > a.n_content)
            fail_msg("\"%s\": %zu bytes sent, %zu are content", cases[i].text, sent, a.n_content);
        json_decref(a.calls);
    }
}

static void test_ids(void **state)
{
    (void)state;
    struct vd_value all = tools();
    struct vd_tool_answer a, b, c, d;
    const char text[] = "[TOOL_CALLS][{\"name\": \"a\"}, {\"name\": \"a\"}]";
    vd_tool_read(&a, text, strlen(text), &all, "one", 0, 0);
    vd_tool_read(&b, text, strlen(text), &all, "one", 0, 0);
    vd_tool_read(&c, text, strlen(text), &all, "two", 0, 0);
    vd_tool_read(&d, text, strlen(text), &all, "one", 1, 0);
    assert_true(json_equal(a.calls, b.calls)); /* a replayed answer has the same */
    assert_false(json_equal(a.calls, c.calls));
    assert_false(json_equal(json_array_get(a.calls, 0), json_array_get(a.calls, 1)));
    for (size_t i = 0; i < 4; i++) /* nor do choices of one answer share any */
        assert_string_not_equal(json_string_value(json_object_get(json_array_get(a.calls, i / 2), "id")),
                                json_string_value(json_object_get(json_array_get(d.calls, i % 2), "id")));
    json_decref(a.calls);
    json_decref(b.calls);
    json_decref(c.calls);
    json_decref(d.calls);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_bare),
        cmocka_unit_test(test_masked),
        cmocka_unit_test(test_marks_in_json),
        cmocka_unit_test(test_parameters_under_masks),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_ids),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
