/* UTF-8 and the character classes that pre-tokenisers are defined by (general categories of Unicode 15.1 and
 * the property White_Space).
 *
 * Thread rule: pure functions. */
#ifndef VD_UNICODE_H
#define VD_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first letter of the general category. Unassigned code points are VD_UCAT_NONE. */
enum vd_ucat {
    VD_UCAT_NONE,
    VD_UCAT_NUMBER,
    VD_UCAT_LETTER,
    VD_UCAT_SEPARATOR,
    VD_UCAT_MARK,
    VD_UCAT_PUNCTUATION,
    VD_UCAT_SYMBOL,
    VD_UCAT_OTHER, /* controls, formats, surrogates, private use */
};

enum { VD_UFLAG_CATEGORY = 7, VD_UFLAG_SPACE = 8 };

enum {
    VD_UNICODE_RANGES = 2276,
    VD_UNICODE_LOWERS = 1433,
    VD_UNICODE_BASES = 2061,
    VD_UTF8_MAX = 4,
    VD_CPT_REPLACEMENT = 0xFFFD
};

extern const uint32_t vd_unicode_ranges[VD_UNICODE_RANGES]; /* use vd_unicode_flags */

extern const uint32_t vd_unicode_lower_map[VD_UNICODE_LOWERS][2]; /* use vd_unicode_lower */
extern const uint32_t vd_unicode_base_map[VD_UNICODE_BASES][2];   /* use vd_unicode_base */

/* The first code point of a character's lower case, and of its canonical decomposition (a letter without its
 * accents; of a Hangul syllable only the first consonant). What has none is itself. */
uint32_t vd_unicode_lower(uint32_t cpt);
uint32_t vd_unicode_base(uint32_t cpt);

/* The category (VD_UFLAG_CATEGORY bits) and VD_UFLAG_SPACE of a code point up to 0x10FFFF. */
uint32_t vd_unicode_flags(uint32_t cpt);

/* Reads one code point from the n >= 1 bytes at p. Returns the bytes read. Lenient, as the tokenizers of the
 * field are: overlong forms and surrogates are read as the number that they spell; whatever else is not UTF-8
 * gives one byte as VD_CPT_REPLACEMENT. */
size_t vd_utf8_read(const uint8_t *p, size_t n, uint32_t *cpt);

/* Writes a code point up to 0x10FFFF. Returns the bytes written, 1 to 4. */
size_t vd_utf8_write(uint8_t out[VD_UTF8_MAX], uint32_t cpt);

/* Strict UTF-8 (Unicode table 3-7): looks at the n >= 1 bytes at p. Returns the length of the character
 * there; 0 if they are the start of one that goes on after them; or -k if the first k bytes are ill-formed (a
 * maximal subpart, which stands for one replacement character). */
int vd_utf8_check(const uint8_t *p, size_t n);

#endif
