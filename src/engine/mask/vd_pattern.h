/* Regular expressions as schemas have them (ECMA-262), of texts inside a JSON string.
 *
 * What is read: literals, ., classes, \d \w \s and their opposites, \t \n \v \f \r, \xHH, \uHHHH, \u{H..},
 * groups with and without capture, |, the quantifiers *, +, ?, {m}, {m,}, {m,n}, also lazy; ^ at the
 * beginning and $ at the end of the expression or of one of its alternatives outside groups. What looks
 * around or back (\b, (?=, (?!, (?<, \1, \p) is refused by name.
 *
 * As in a schema, an expression without ^ or $ may match anywhere in the text. Characters are written as
 * themselves, or, where JSON wants that, with the short escapes (\" \\ \b \f \n \r \t); control characters
 * that have none do not occur.
 *
 * Thread rule: one thread at a time per object. */
#ifndef VD_PATTERN_H
#define VD_PATTERN_H

#include "vd_rules.h"

enum { VD_PATTERN_MAX_BYTES = 4096 };

/* The expression's texts, without the quotes around them. VD_EUSE: the message says what is wrong, and where.
 */
enum vd_err vd_pattern_add(struct vd_rules *r, const char *text, size_t n, vd_expr *out,
                           struct vd_error *err);

#endif
