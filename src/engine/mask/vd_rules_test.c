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
#include "vd_test_mask.h"

static uint8_t mask[VD_MASK_BYTES_MAX];
static size_t n_mask;
static struct vd_error err;
static const struct vd_hash root = {{1, 2, 3}};

static bool accepts(const char *text)
{
    return vd_test_mask_takes((struct vd_bytes){mask, n_mask}, text);
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
        fail_msg("%.200s: %s", text, err.msg);
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

/* Every integer about the ends, and what is like one. */
static void check_range(long low, long high, bool open_low, bool open_high)
{
    char text[200], number[40];
    snprintf(text, sizeof text, "{\"type\":\"integer\",\"%s\":%ld,\"%s\":%ld}",
             open_low ? "exclusiveMinimum" : "minimum", low, open_high ? "exclusiveMaximum" : "maximum",
             high);
    schema(text);
    for (long end = 0; end < 2; end++)
        for (long x = (end ? high : low) - 120; x <= (end ? high : low) + 120; x++) {
            bool in = x >= low + open_low && x <= high - open_high;
            snprintf(number, sizeof number, "%ld", x);
            if (accepts(number) != in)
                fail_msg("%s: %ld", text, x);
        }
    refuses(4, "", "-", "00", "1.0");
}

static void test_ranges(void **state)
{
    static const long end[] = {-123456789, -1000, -999, -101, -100, -7,   -1,    0,      1,
                               9,          10,    99,   100,  305,  1000, 99999, 100000, 5000000000};
    enum { N = sizeof end / sizeof end[0] };
    (void)state;
    for (size_t i = 0; i < N; i++)
        for (size_t k = i; k < N; k += 1 + (i + k) % 3) {
            check_range(end[i], end[k], false, false);
            if (k > i + 1)
                check_range(end[i], end[k], true, k % 2);
        }
    schema("{\"type\":\"integer\",\"minimum\":0.5}");
    takes(2, "1", "999999999999999");
    refuses(3, "0", "-1", "1000000000000000");
}

static void test_number_bounds(void **state)
{
    (void)state;
    schema("{\"type\":\"number\",\"minimum\":0,\"exclusiveMaximum\":1}");
    takes(4, "0", "0.0", "0.999", "0.5");
    refuses(6, "1", "1.0", "-0.1", "-0", "0.", "1e-1");
    schema("{\"type\":\"number\",\"exclusiveMinimum\":-10,\"maximum\":25}");
    takes(7, "-9.99", "-9", "0", "-0.5", "25", "25.00", "24.999");
    refuses(5, "-10", "-10.0", "25.01", "26", "-11");
    schema("{\"type\":\"number\",\"exclusiveMinimum\":3}");
    takes(4, "3.01", "3.0001", "4", "12345.5");
    refuses(4, "3", "3.0", "3.000", "2.9");
    schema("{\"type\":\"number\",\"maximum\":-2}");
    takes(3, "-2", "-2.5", "-3");
    refuses(4, "-1.9", "0", "2", "-1");
    schema("{\"maximum\":0}");
    takes(3, "0", "-0", "-1.5");
    refuses(2, "0.1", "1");
    schema("{\"exclusiveMaximum\":0}");
    takes(2, "-0.001", "-1");
    refuses(3, "0", "-0", "-0.0");
}

static void test_lengths(void **state)
{
    static const unsigned range[][2] = {{0, 0},     {0, 5},    {3, 3},     {0, 64},  {10, 64},
                                        {0, 65},    {64, 64},  {1, 128},   {65, 65}, {63, 200},
                                        {128, 191}, {70, 333}, {129, 5000}};
    static const char *const unit[] = {"a", "\xc3\xa9", "\\n", "\\u00e9", "\xf0\x9f\x98\x80"};
    static char text[4000], s[300];
    (void)state;
    for (size_t i = 0; i < sizeof range / sizeof range[0]; i++) {
        if (range[i][1] < 5000)
            snprintf(s, sizeof s, "{\"type\":\"string\",\"minLength\":%u,\"maxLength\":%u}", range[i][0],
                     range[i][1]);
        else
            snprintf(s, sizeof s, "{\"minLength\":%u}", range[i][0]);
        schema(s);
        for (unsigned n = 0; n < 400; n++) {
            size_t at = 0;
            text[at++] = '"';
            for (unsigned k = 0; k < n; k++)
                at += (size_t)sprintf(text + at, "%s", unit[(k * k + n) % 5]);
            strcpy(text + at, "\"");
            bool in = n >= range[i][0] && n <= range[i][1];
            if (accepts(text) != in)
                fail_msg("%s: %u characters", s, n);
        }
    }
}

/* All subsets of the members, in their order, with every subset of them required. */
static void test_optional_members(void **state)
{
    enum { N = 5 };
    char s[400], text[200];
    (void)state;
    for (unsigned must = 0; must < 1u << N; must++)
        for (unsigned more = 0; more < 2; more++) {
            size_t n = (size_t)sprintf(s, "{\"type\":\"object\",\"additionalProperties\":%s,\"properties\":{",
                                       more ? "{\"type\":\"null\"}" : "false");
            for (unsigned i = 0; i < N; i++)
                n += (size_t)sprintf(s + n, "%s\"p%u\":{\"const\":%u}", i ? "," : "", i, i);
            n += (size_t)sprintf(s + n, "},\"required\":[");
            for (unsigned i = 0, k = 0; i < N; i++)
                if (must >> i & 1)
                    n += (size_t)sprintf(s + n, "%s\"p%u\"", k++ ? "," : "", i);
            sprintf(s + n, "]}");
            schema(s);
            for (unsigned has = 0; has < 1u << N; has++)
                for (unsigned n_more = 0; n_more < 3; n_more++) {
                    size_t at = (size_t)sprintf(text, "{");
                    for (unsigned i = 0; i < N; i++)
                        if (has >> i & 1)
                            at += (size_t)sprintf(text + at, "%s\"p%u\":%u", at > 1 ? "," : "", i, i);
                    for (unsigned i = 0; i < n_more; i++)
                        at += (size_t)sprintf(text + at, "%s\"x%u\": null", at > 1 ? ", " : "", i);
                    sprintf(text + at, "}");
                    bool in = (has & must) == must && (n_more == 0 || more);
                    if (accepts(text) != in)
                        fail_msg("%s: %s", s, text);
                }
        }
}

static void test_other_names(void **state)
{
    (void)state;
    schema("{\"properties\":{\"name\":{\"const\":1},\"nam\":{\"const\":2},\"\xc3\xa9t\":{\"const\":3}},"
           "\"additionalProperties\":{\"type\":\"boolean\"}}");
    takes(7, "{\"name\":1}", "{\"na\":true}", "{\"names\":true}", "{\"\":false}", "{\"x\":true,\"y\":false}",
          "{\"\xc3\xa9\":true}", "{\"name\":1,\"\xc3\xa9t\":3,\"\xc3\xa9ta\":true}");
    refuses(5, "{\"name\":true}", "{\"nam\":true}", "{\"\xc3\xa9t\":true}", "{\"x\":1}",
            "{\"\\u006eame\":true}");
    schema(
        "{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"],\"additionalProperties\":true}");
    takes(2, "{\"a\":1}", "{\"a\":1,\"b\":{\"a\":[]}}");
    refuses(2, "{}", "{\"b\":1}");
}

static void pattern(const char *p)
{
    char s[300];
    snprintf(s, sizeof s, "{\"type\":\"string\",\"pattern\":\"%s\"}", p);
    schema(s);
}

static void test_patterns(void **state)
{
    (void)state;
    pattern("^[A-Z]{2}-\\\\d{3,}$");
    takes(2, "\"AB-123\"", "\"AB-12345\"");
    refuses(4, "\"AB-12\"", "\"ab-123\"", "\"AB-123x\"", "\"xAB-123\"");
    pattern("b.d");
    takes(3, "\"bxd\"", "\"aabxdcc\"", "\"b\\\"d\"");
    refuses(3, "\"bd\"", "\"b\\nd\"", "\"\"");
    pattern("^(?:yes|no)$|^-");
    takes(3, "\"yes\"", "\"no\"", "\"-anything\"");
    refuses(3, "\"yesno\"", "\"maybe\"", "\"x-\"");
    pattern("^[^\\\"\\\\\\\\\\\\s]+?\\\\t\\\\u00e9\\\\x41\\\\u{1F600}$");
    takes(1, "\"x\\t\xc3\xa9"
             "A\xf0\x9f\x98\x80\"");
    refuses(2,
            "\"\\\\\\t\xc3\xa9"
            "A\xf0\x9f\x98\x80\"",
            "\"\\t\xc3\xa9"
            "A\xf0\x9f\x98\x80\"");
    pattern("^[\\\\w.-]*@\\\\W\\\\D\\\\S$");
    takes(2, "\"a.b@--x\"", "\"@\xc3\xa9xx\"");
    refuses(3, "\"a@x-x\"", "\"a@-1x\"", "\"a@-x \"");
}

static void test_bad_patterns(void **state)
{
    static const char *const bad[][2] = {
        {"(?=a)b", "not supported"},    {"a\\\\b", "'\\b'"},        {"(a", "without its end"},
        {"a)", "without '('"},          {"[a", "without its end"},  {"[z-a]", "none"},
        {"a{3,1}", "before it begins"}, {"a**", "two repetitions"}, {"*", "nothing to repeat"},
        {"(^a)", "only at the ends"},   {"(a)\\\\1", "'\\1'"},      {"a{9999}", "4096"},
        {"\\\\p{L}", "'\\p'"},          {"\\\\u12", "number"},      {"a$b", "only at the ends"}};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char s[200];
        snprintf(s, sizeof s, "{\"type\":\"string\",\"pattern\":\"%s\"}", bad[i][0]);
        refused(s, bad[i][1]);
    }
}

static void test_bad_schemas(void **state)
{
    (void)state;
    refused("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\",\"multipleOf\":1}}}",
            "#/properties/a: the keyword 'multipleOf'");
    refused("{\"type\":\"number\",\"minimum\":0.5}", "whole");
    refused("{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "within these bounds");
    refused("{\"type\":\"integer\",\"exclusiveMinimum\":3,\"maximum\":3}", "within these bounds");
    refused("{\"type\":\"integer\",\"maximum\":1e30}", "15 digits");
    refused("{\"type\":\"string\",\"pattern\":\"a\",\"minLength\":2}", "beside a length");
    refused("{\"type\":\"string\",\"enum\":[1,2]}", "of the 'type'");
    refused("{\"type\":\"string\",\"const\":1}", "of the 'type'");
    refused("{\"type\":\"string\",\"anyOf\":[{\"type\":\"null\"}]}", "another one");
    refused("{\"not\":{}}", "'not'");
    refused("{\"type\":\"thing\"}", "'thing'");
    refused("{", "not JSON");
    refused("3", "must be an object");
    refused("{\"$ref\":\"http://x\"}", "within the schema");
    refused("{\"$ref\":\"#/nothing\"}", "points to nothing");
    refused("{\"$ref\":\"#\"}", "");
    refused("{\"properties\":{\"a\":{}},\"required\":[\"b\"]}", "names 'b'");
    refused("{\"type\":\"string\",\"maxLength\":100000}", "4096");
    refused("{\"type\":\"array\",\"minItems\":4000,\"items\":{\"type\":\"array\",\"minItems\":4000}}", "");
}

/* What says something is not passed over in silence. */
static void test_nothing_is_ignored(void **state)
{
    char text[1024], name[300];
    (void)state;
    schema("{\"minItems\":1}");
    takes(1, "[1]");
    refuses(1, "[]");
    schema("{\"maxItems\":0}");
    refuses(1, "[1]");
    schema("{\"prefixItems\":[{},{}],\"minItems\":2,\"maxItems\":2}");
    takes(1, "[1,2]");
    refused("{\"prefixItems\":[{},{}],\"minItems\":3}", "minItems");
    refused("{\"prefixItems\":[{},{}],\"maxItems\":1}", "maxItems");
    refused("{\"$ref\":\"#/$defs/a/x\",\"$defs\":{\"a\":[{\"const\":1}]}}", "points to nothing");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    snprintf(text, sizeof text, "{\"$ref\":\"#/$defs/%s\",\"$defs\":{\"%.255s\":{}}}", name, name);
    refused(text, "points to nothing");
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
    n = (size_t)sprintf(text, "{\"type\":\"object\",\"properties\":{");
    for (unsigned i = 0; i < 100; i++)
        n += (size_t)sprintf(text + n, "%s\"property_number_%u\":{\"type\":\"number\"}", i ? "," : "", i);
    sprintf(text + n, "}}");
    schema(text);
    takes(2, "{\"property_number_7\":1, \"property_number_99\":2.5}", "{}");
    refuses(1, "{\"property_number_7\":1, \"property_number_6\":2.5}");
    print_message("    100 optional numbers: %zu bytes\n", n_mask);
    schema("{\"type\":\"string\",\"maxLength\":4000}");
    print_message("    a string of 4000: %zu bytes\n", n_mask);
    refused("{\"type\":\"array\",\"maxItems\":4000,\"items\":{\"type\":\"array\",\"maxItems\":4000,\"items\":"
            "{}}}",
            "too");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grammars),     cmocka_unit_test(test_recursion),
        cmocka_unit_test(test_bad_grammars), cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_references),   cmocka_unit_test(test_bad_schemas),
        cmocka_unit_test(test_types_twice),  cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_ranges),       cmocka_unit_test(test_number_bounds),
        cmocka_unit_test(test_lengths),      cmocka_unit_test(test_optional_members),
        cmocka_unit_test(test_other_names),  cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_bad_patterns), cmocka_unit_test(test_nothing_is_ignored),
    };
    return cmocka_run_group_tests_name("rules", tests, NULL, NULL);
}
