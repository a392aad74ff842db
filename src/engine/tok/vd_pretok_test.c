/* Each row cut the whole differential text (all of Unicode, random mixes, bad bytes, long runs, code) as the
 * peer does, seen through the ids of a real vocabulary of its family. What is here are the places where the
 * expressions differ. Pieces are shown with a bar after each. */
#include "vd_pretok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct shown {
    char text[400];
    size_t n;
};

static bool show(void *ctx, const uint8_t *p, const uint8_t *end)
{
    struct shown *s = ctx;
    assert_true(end > p && s->n + (size_t)(end - p) + 2 < sizeof s->text);
    memcpy(s->text + s->n, p, (size_t)(end - p));
    s->n += (size_t)(end - p);
    s->text[s->n++] = '|';
    s->text[s->n] = 0;
    return true;
}

static const char words[] = "I'LL  go\u00e9 12345 x\u0301y!?\r\n\n  \tz -- \u4e2d\u6587 'd  ";
static const char code[] = "if(a1<=2){ // $x\n\tf(1234567) }";
static const char east[] = "\u3001\u30ab\u3000\u0416a\u00b5 \u2018q\u0969\u0661\u20ac";

static const char signs[] = "a `b`, (c. d\u3002e \u060c  f1";

static const char capitals[] = "HTTPServer iPhone DON'T it's \u00c9COLE x\u00c9A a/b !//\n/z";

static void test_rows(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *pieces;
    } cases[] = {
        {"gpt-2", words, "I|'|LL| | go\u00e9| 12345| x|\u0301|y|!?|\r\n\n  |\t|z| --| \u4e2d\u6587| '|d|  |"},
        {"gpt-2", code, "if|(|a|1|<=|2|){| //| $|x|\n|\t|f|(|1234567|)| }|"},
        {"gpt-2", east, "\u3001|\u30ab|\u3000|\u0416a\u00b5| \u2018|q|\u0969\u0661|\u20ac|"},
        {"smollm", words,
         "I|'|LL| | go\u00e9| |1|2|3|4|5| x|\u0301|y|!?|\r\n\n  |\t|z| --| \u4e2d\u6587| '|d|  |"},
        {"smollm", code, "if|(|a|1|<=|2|){| //| $|x|\n|\t|f|(|1|2|3|4|5|6|7|)| }|"},
        {"smollm", east, "\u3001|\u30ab|\u3000|\u0416a\u00b5| \u2018|q|\u0969|\u0661|\u20ac|"},
        {"llama-bpe", words,
         "I|'LL| | go\u00e9| |123|45| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"llama-bpe", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|123|456|7|)| }|"},
        {"llama-bpe", east, "\u3001\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969\u0661|\u20ac|"},
        {"qwen2", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"qwen2", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"qwen2", east, "\u3001\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969|\u0661|\u20ac|"},
        {"qwen35", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"qwen35", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"qwen35", east, "\u3001\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969|\u0661|\u20ac|"},
        {"deepseek-llm", words,
         "I|'|LL| | go|\u00e9| |12345| x|\u0301|y|!?|\r|\n|\n|  |\tz| --| |\u4e2d\u6587| '|d|  |"},
        {"deepseek-llm", code, "if|(|a|1|<=|2|){| //| $|x|\n|\tf|(|1234567|)| }|"},
        {"deepseek-llm", east, "\u3001|\u30ab|\u3000\u0416|a|\u00b5| |\u2018|q|\u0969|\u0661|\u20ac|"},
        {"deepseek-coder", words,
         "I|'|LL| | go\u00e9| |1|2|3|4|5| x|\u0301|y|!?|\r|\n|\n|  |\tz| --| |\u4e2d\u6587| '|d|  |"},
        {"deepseek-coder", code, "if|(|a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"deepseek-coder", east, "\u3001|\u30ab|\u3000\u0416a\u00b5| |\u2018|q|\u0969|\u0661|\u20ac|"},
        {"falcon", words,
         "I|'|LL| | go\u00e9| |123|45| x|\u0301|y|!?|\r\n\n  |\t|z| |--| \u4e2d\u6587| |'|d|  |"},
        {"falcon", code, "if|(|a|1|<=|2|){| |//| |$|x|\n|\t|f|(|123|456|7|)| |}|"},
        {"falcon", east, "\u3001|\u30ab|\u3000|\u0416a\u00b5| |\u2018|q|\u0969\u0661|\u20ac|"},
        {"tekken", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"tekken", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"tekken", east, "\u3001\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969|\u0661|\u20ac|"},
        {"tekken", capitals, "HTTPServer| i|Phone| DON|'T| it|'s| \u00c9|COLE| x\u00c9|A| a|/b| !//\n/|z|"},
        {"gpt-4o", words, "I'LL| | go\u00e9| |123|45| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"gpt-4o", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|123|456|7|)| }|"},
        {"gpt-4o", east, "\u3001\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969\u0661|\u20ac|"},
        {"gpt-4o", capitals, "HTTPServer| i|Phone| DON'T| it's| \u00c9|COLE| x\u00c9|A| a|/b| !//\n/|z|"},
        {"deepseek-v3", words,
         "I|'LL| | go\u00e9| |123|45| x\u0301y|!?\r\n\n|  |\tz| --| |\u4e2d\u6587| '|d|  |"},
        {"deepseek-v3", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|123|456|7|)| }|"},
        {"deepseek-v3", east, "\u3001|\u30ab|\u3000\u0416a\u00b5| \u2018|q|\u0969\u0661|\u20ac|"},
        {"deepseek-v3", capitals, "HTTPServer| iPhone| DON|'T| it|'s| \u00c9COLE| x\u00c9A| a|/b| !//\n|/z|"},
        {"bloom", words, "I'LL| | go\u00e9| 12345| x\u0301y|!?\r\n\n  \t|z| --| \u4e2d\u6587| 'd|  |"},
        {"bloom", code, "if|(|a1<=2|)|{| //| $x|\n\t|f|(|1234567|)| }|"},
        {"bloom", signs, "a| `b`|, (|c|.| d|\u3002|e| \u060c | f1|"},
        {"viking", words, "I'LL| | go\u00e9| |1|2|3|4|5| x\u0301y|!?\r\n\n  \t|z| --| \u4e2d\u6587| 'd|  |"},
        {"viking", code, "if|(|a|1|<=|2|)|{| //| $x|\n\t|f|(|1|2|3|4|5|6|7|)| }|"},
        {"viking", signs, "a| `b`|, (|c|.| d|\u3002|e| \u060c | f|1|"},
        {"default", words,
         "I|'|LL| | go\u00e9| |123|45| x|\u0301|y|!?|\r\n\n  |\t|z| |--| \u4e2d\u6587| |'|d|  |"},
        {"default", code, "if|(|a|1|<=|2|){| |//| |$|x|\n|\t|f|(|123|456|7|)| |}|"},
        {"default", signs, "a| `|b|`|,| |(|c|.| d|\u3002|e| |\u060c| | f|1|"},
        {"laguna", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x|\u0301y|!?\r|\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"laguna", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"laguna", signs, "a| `|b|`,| (|c|.| d|\u3002e| \u060c| | f|1|"},
        {"seed-coder", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x|\u0301y|!?|\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"seed-coder", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"seed-coder", signs, "a| `|b|`,| (|c|.| d|\u3002e| \u060c| | f|1|"},
        {"ufakzeka", words,
         "I|'LL| | go\u00e9| |1|2|3|4|5| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"ufakzeka", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|1|2|3|4|5|6|7|)| }|"},
        {"ufakzeka", signs, "a| `|b|`,| (|c|.| d|\u3002e| \u060c| | f|1|"},
        {"minicpm5", words,
         "I|'LL| | go\u00e9| |123|45| x|\u0301y|!?\r\n\n|  |\tz| --| \u4e2d\u6587| '|d|  |"},
        {"minicpm5", code, "if|(a|1|<=|2|){| //| $|x|\n|\tf|(|123|456|7|)| }|"},
        {"minicpm5", signs, "a| `|b|`,| (|c|.| d|\u3002e| \u060c| | f|1|"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct shown s = {.n = 0};
        const uint8_t *p = (const uint8_t *)cases[i].text;
        const struct vd_pretok *pre = vd_pretok_find(cases[i].name, strlen(cases[i].name));
        assert_non_null(pre);
        assert_true(vd_pretok_run(pre, p, p + strlen(cases[i].text), show, &s));
        if (strcmp(s.text, cases[i].pieces) != 0)
            fail_msg("%s: \"%s\" became \"%s\"", cases[i].name, cases[i].text, s.text);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_null(vd_pretok_find("llama", 5));
    assert_null(vd_pretok_find("", 0));
    for (const struct vd_pretok *r = vd_pretok_all(); r->name; r++)
        assert_ptr_equal(vd_pretok_find(r->name, strlen(r->name)), r);
    assert_true(vd_pretok_find("llama-bpe", 9)->whole_words && vd_pretok_find("llama-bpe", 9)->add_bos);
    assert_false(vd_pretok_find("qwen2", 5)->whole_words || vd_pretok_find("qwen2", 5)->add_bos);
}

static bool stop(void *ctx, const uint8_t *p, const uint8_t *end)
{
    (void)p, (void)end;
    return --*(int *)ctx > 0;
}

static void test_stop(void **state)
{
    (void)state;
    int left = 2;
    const struct vd_pretok *pre = vd_pretok_find("falcon", 6);
    assert_false(
        vd_pretok_run(pre, (const uint8_t *)code, (const uint8_t *)code + strlen(code), stop, &left));
    assert_int_equal(left, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
