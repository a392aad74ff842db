/* A sorted list of ranges is a tenth of a flat table and fast enough: most text is ASCII or stays in one
 * script. */
#include "vd_unicode.h"

#include <assert.h>

static uint32_t search(uint32_t cpt)
{
    uint32_t lo = 0, hi = VD_UNICODE_RANGES; /* ranges[lo] starts at or before cpt */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (vd_unicode_ranges[mid] >> 8 <= cpt)
            lo = mid;
        else
            hi = mid;
    }
    return vd_unicode_ranges[lo] & 0xff;
}

uint32_t vd_unicode_flags(uint32_t cpt)
{
    assert(cpt <= 0x10FFFF);
    if ((cpt | 32) - 'a' < 26)
        return VD_UCAT_LETTER;
    if (cpt == ' ')
        return VD_UCAT_SEPARATOR | VD_UFLAG_SPACE;
    return search(cpt);
}

static uint32_t look_up(const uint32_t map[][2], uint32_t n, uint32_t cpt)
{
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (map[mid][0] < cpt)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && map[lo][0] == cpt ? map[lo][1] : cpt;
}

uint32_t vd_unicode_lower(uint32_t cpt)
{
    return look_up(vd_unicode_lower_map, VD_UNICODE_LOWERS, cpt);
}

uint32_t vd_unicode_base(uint32_t cpt)
{
    if (cpt >= 0xAC00 && cpt < 0xD7A4)
        return 0x1100 + (cpt - 0xAC00) / 588; /* 588 syllables begin with each consonant */
    return look_up(vd_unicode_base_map, VD_UNICODE_BASES, cpt);
}

size_t vd_utf8_read(const uint8_t *p, size_t n, uint32_t *cpt)
{
    uint8_t c = p[0];
    *cpt = c;
    if (c < 0x80)
        return 1;
    size_t len = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    uint32_t v = c & (0x7Fu >> len);
    bool ok = c >= 0xC0 && c < 0xF8 && len <= n;
    for (size_t i = 1; ok && i < len; i++) {
        ok = (p[i] & 0xC0) == 0x80;
        v = v << 6 | (p[i] & 0x3Fu);
    }
    ok = ok && v <= 0x10FFFF;
    *cpt = ok ? v : VD_CPT_REPLACEMENT;
    return ok ? len : 1;
}

size_t vd_utf8_write(uint8_t out[VD_UTF8_MAX], uint32_t cpt)
{
    assert(cpt <= 0x10FFFF);
    if (cpt < 0x80) {
        out[0] = (uint8_t)cpt;
        return 1;
    }
    size_t len = cpt < 0x800 ? 2 : cpt < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, cpt >>= 6)
        out[i] = (uint8_t)(0x80 | (cpt & 0x3F));
    out[0] = (uint8_t)(0xF00 >> len | cpt);
    return len;
}

int vd_utf8_check(const uint8_t *p, size_t n)
{
    uint8_t c = p[0];
    if (c < 0x80)
        return 1;
    if (c < 0xC2 || c > 0xF4)
        return -1;
    int len = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n)
            return 0;
        uint8_t lo = i > 1 ? 0x80 : c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        uint8_t hi = i > 1 ? 0xBF : c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (p[i] < lo || p[i] > hi)
            return -i;
    }
    return len;
}
