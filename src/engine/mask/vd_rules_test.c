/* Grammars and schemas, by what their automata take and what they refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vd_rules.h"

static uint8_t mask[VD_MASK_BYTES_MAX];
static size_t n_mask;
static struct vd_error err;
static const struct vd_hash root = {{1, 2, 3}};

static bool accepts(const char *text)
{
    struct vd_automaton a;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n_mask}));
    for (; *text; text++)
        if (!vd_automaton_step(&a, &s, (uint8_t)*text))
            return false;
    return vd_automaton_may_end(&a, &s);
}

static void grammar(const char *text)
{
    if (vd_grammar_compile(text, strlen(text), &root, mask, &n_mask, &err) != VD_OK)
        fail_msg("%s", err.msg);
    assert_memory_equal(mask, root.b, VD_MASK_ROOT_BYTES);
}

static void schema(const char *text)
{
    if (vd_schema_compile(text, text ? strlen(text) : 0, &root, mask, &n_mask, &err) != VD_OK)
        fail_msg("%s: %s", text, err.msg);
}

static void takes(unsigned n, ...)
{
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++) {
        const char *t = va_arg(ap, const char *);
        if (!accepts(t))
            fail_msg("'%s' should be taken", t);
    }
    va_end(ap);
}

static void refuses(unsigned n, ...)
{
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++) {
        const char *t = va_arg(ap, const char *);
        if (accepts(t))
            fail_msg("'%s' should be refused", t);
    }
    va_end(ap);
}

static void test_grammars(void **state)
{
    (void)state;
    grammar("root ::= \"yes\" | \"no\" | \"yell\"");
    takes(3, "yes", "no", "yell");
    refuses(4, "", "ye", "yess", "noo");
    grammar("# a comment\nroot ::= (\"a\" [b-d]+ | [^a-z\\n] .)* tail?\ntail ::= \"!\"{2,3}\n");
    takes(6, "", "abcd", "ab1x", "!!", "!!!", "\xc3\xa9z");
    refuses(3, "a", "!", "\xc3");
    grammar("root ::= item (\", \" item){1,}\nitem ::= [0-9]{2} | \"\\x41\" | \"\\u00e9\"");
    takes(2, "12, A", "12, \xc3\xa9, 34");
    refuses(3, "12", "1, 2", "12, ");
}

/* From llama.cpp's own examples: recursion through a called rule. */
static void test_recursion(void **state)
{
    (void)state;
    grammar("root  ::= (expr \"=\" ws term \"\\n\")+\n"
            "expr  ::= term ([-+*/] term)*\n"
            "term  ::= ident | num | \"(\" ws expr \")\" ws\n"
            "ident ::= [a-z] [a-z0-9_]* ws\n"
            "num   ::= [0-9]+ ws\n"
            "ws    ::= [ \\t\\n]*\n");
    takes(3, "a=b\n", "(a+(1*2))/x = y1\n", "((((1))))=2\n");
    refuses(3, "a=", "(a=b\n", "a=b");
    grammar(
        "root ::= object\n"
        "value ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
        "object ::= \"{\" ws ( string \":\" ws value (\",\" ws string \":\" ws value)* )? \"}\" ws\n"
        "array ::= \"[\" ws ( value (\",\" ws value)* )? \"]\" ws\n"
        "string ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) "
        ")* \"\\\"\" ws\n"
        "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n"
        "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n");
    takes(3, "{}", "{\"a\": [1, {\"b\": null}, \"x\\n\"], \"c\":-1.5e3}", "{\"k\":[[[]]]}");
    refuses(4, "[]", "{\"a\":}", "{\"a\":1,}", "{\"a\":[1}");
}

static void fails(const char *text, const char *says)
{
    enum vd_err e = vd_grammar_compile(text, strlen(text), &root, mask, &n_mask, &err);
    assert_int_not_equal(e, VD_OK);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_bad_grammars(void **state)
{
    (void)state;
    fails("a ::= \"x\"", "no rule 'root'");
    fails("root ::= b", "'b' is not defined");
    fails("root ::= root \"x\" | \"y\"", "left recursion");
    fails("root ::= \"x\n", "line 1: a literal without its end");
    fails("root ::= \"a\"\nroot ::= \"b\"", "line 2");
    fails("root ::= [z-a]", "a range that is none");
    fails("root ::= \"a\" root", "no text can match");
    fails("root ::= \"(\" root \")\" | \"((x\"", "same byte 0x28");
    fails("root ::= \"a\"{5000}", "4096");
    fails("root ::= (((\"a\"{4000}){4000}){4000})", "too");
    fails("root ::= [a-z]{1000} \"x\" | .{0,1000} \"y\"", "");
}

static void test_schemas(void **state)
{
    (void)state;
    schema(NULL);
    takes(3, "{}", "{\"a\": {\"b\": [1, 2.5, \"\\u00e9\", null, true]}}",
          "{\n  \"x\": \"\xf0\x9f\x98\x80\"\n}");
    refuses(4, "[]", "1", "{\"a\"}", "{a: 1}");
    schema(
        "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"},"
        "\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"b\",3]},\"minItems\":1,\"maxItems\":3}},"
        "\"required\":[\"name\",\"tags\"],\"additionalProperties\":false,\"title\":\"T\"}");
    takes(3, "{\"name\":\"x\",\"age\":3,\"tags\":[\"a\"]}", "{ \"name\": \"\", \"tags\": [3, \"b\", 3] }",
          "{\n \"name\":\"x\",\n \"tags\":[\"b\"]}");
    refuses(6, "{\"name\":\"x\"}", "{\"tags\":[\"a\"],\"name\":\"x\"}", "{\"name\":\"x\",\"tags\":[]}",
            "{\"name\":\"x\",\"tags\":[3,3,3,3]}", "{\"name\":1,\"tags\":[3]}",
            "{\"name\":\"x\",\"age\":1.5,\"tags\":[3]}");
    schema("{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":[2,\"x\"]},\"c\":{\"type\":[\"null\","
           "\"boolean\"]}}}");
    takes(7, "{}", "{\"a\":1}", "{\"b\":[2,\"x\"]}", "{\"c\":null}", "{\"a\":1,\"c\":true}",
          "{\"b\":[2,\"x\"],\"c\":false}", "{\"a\":1,\"b\":[2,\"x\"],\"c\":null}");
    refuses(4, "{\"a\":2}", "{\"c\":true,\"a\":1}", "{\"a\":1,}", "{,}");
    schema(
        "{\"anyOf\":[{\"type\":\"string\",\"minLength\":2,\"maxLength\":3},{\"type\":\"string\",\"format\":"
        "\"date\"},"
        "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"number\"},{\"type\":\"null\"}],\"items\":false}]}");
    takes(4, "\"ab\"", "\"\xc3\xa9\xc3\xa9\xc3\xa9\"", "\"2024-05-06\"", "[1.5, null]");
    refuses(4, "\"a\"", "\"abcd\"", "[1]", "[1,null,2]");
}

static void test_references(void **state)
{
    (void)state;
    schema("{\"$ref\":\"#/$defs/"
           "tree\",\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
           "\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/"
           "tree\"}}},\"required\":[\"v\",\"kids\"]}}}");
    takes(2, "{\"v\":1,\"kids\":[]}",
          "{\"v\":1,\"kids\":[{\"v\":2,\"kids\":[{\"v\":3,\"kids\":[]}]},{\"v\":4,\"kids\":[]}]}");
    refuses(2, "{\"v\":1,\"kids\":[1]}", "{\"v\":1,\"kids\":[{\"v\":2}]}");
    schema("{\"type\":\"object\",\"properties\":{\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}}"
           ",\"required\":[\"next\"]}");
    takes(2, "{\"next\":null}", "{\"next\":{\"next\":{\"next\":null}}}");
    schema("{}");
    takes(3, "1", "[{}]", "\"x\"");
}

static void refused(const char *text, const char *says)
{
    assert_int_not_equal(vd_schema_compile(text, strlen(text), &root, mask, &n_mask, &err), VD_OK);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_bad_schemas(void **state)
{
    (void)state;
    refused("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\",\"minimum\":1}}}",
            "#/properties/a: the keyword 'minimum'");
    refused("{\"type\":\"thing\"}", "'thing'");
    refused("{", "not JSON");
    refused("3", "must be an object");
    refused("{\"$ref\":\"http://x\"}", "within the schema");
    refused("{\"$ref\":\"#/nothing\"}", "points to nothing");
    refused("{\"$ref\":\"#\"}", "");
    refused("{\"properties\":{\"a\":{}},\"required\":[\"b\"]}", "names 'b'");
    refused("{\"type\":\"string\",\"maxLength\":100000}", "4096");
    refused("{\"type\":\"array\",\"minItems\":4000,\"items\":{\"type\":\"array\",\"minItems\":4000}}", "");
    refused("{\"properties\":{\"a\":{}},\"additionalProperties\":true}", "additionalProperties");
}

/* Types named twice would be read twice, and so would all that is below them, at each level. */
static void test_types_twice(void **state)
{
    static char text[4096];
    size_t n = 0;
    (void)state;
    for (unsigned i = 0; i < 20; i++)
        n += (size_t)sprintf(text + n, "{\"type\":[\"object\",\"object\"],\"properties\":{\"a\":");
    n += (size_t)sprintf(text + n, "{}");
    for (unsigned i = 0; i < 20; i++)
        n += (size_t)sprintf(text + n, "}}");
    refused(text, "names 'object' twice");
    schema("{\"type\":[\"object\",\"null\",\"array\"],\"properties\":{\"a\":{}}}");
}

/* Ordinary sizes fit; the mask's own limit holds. */
static void test_sizes(void **state)
{
    static char text[20000];
    size_t n = (size_t)sprintf(text, "{\"type\":\"object\",\"properties\":{");
    for (unsigned i = 0; i < 100; i++)
        n += (size_t)sprintf(text + n, "%s\"property_number_%u\":{\"type\":\"%s\"}", i ? "," : "", i,
                             i % 3 ? "string" : "number");
    n += (size_t)sprintf(text + n, "},\"required\":[");
    for (unsigned i = 0; i < 100; i++)
        n += (size_t)sprintf(text + n, "%s\"property_number_%u\"", i ? "," : "", i);
    sprintf(text + n, "]}");
    (void)state;
    schema(text);
    print_message("    100 properties: %zu bytes\n", n_mask);
    schema(NULL);
    print_message("    any object: %zu bytes\n", n_mask);
    assert_true(n_mask < 4096);
    assert_int_equal(
        vd_schema_compile("{\"type\":\"string\",\"maxLength\":4000}", 34, &root, mask, &n_mask, &err),
        VD_ELIMIT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grammars),     cmocka_unit_test(test_recursion),
        cmocka_unit_test(test_bad_grammars), cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_references),   cmocka_unit_test(test_bad_schemas),
        cmocka_unit_test(test_types_twice),  cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests_name("rules", tests, NULL, NULL);
}
