/* Numbers as Python has them, with integers of 64 bits: what does not fit is an error, never another number.
 * Text and floats are turned into each other by the C library, whose conversions are correctly rounded, in
 * the "C" locale that a program starts in. */
#include "vd_template_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool too_large(struct vd_run *r)
{
    return vd_run_fail(r, VD_EUNSUPPORTED, "an integer is beyond 64 bits");
}

bool vd_number_as_int(const struct vd_value *v, int64_t *i)
{
    *i = v->type == VD_VALUE_BOOL ? v->b : v->type == VD_VALUE_INT ? v->i : 0;
    return v->type == VD_VALUE_BOOL || v->type == VD_VALUE_INT;
}

bool vd_number_as_float(const struct vd_value *v, double *f)
{
    int64_t i;
    bool is_int = vd_number_as_int(v, &i);
    *f = is_int ? (double)i : v->type == VD_VALUE_FLOAT ? v->f : 0;
    return is_int || v->type == VD_VALUE_FLOAT;
}

/* An integer against a float, exactly: -1, 0, 1, or 2 for NaN. */
static int order_mixed(int64_t i, double f)
{
    if (isnan(f))
        return 2;
    if (f >= 0x1p63)
        return -1;
    if (f < -0x1p63)
        return 1;
    int64_t whole = (int64_t)f; /* towards zero */
    double rest = f - (double)whole;
    if (i != whole)
        return i < whole ? -1 : 1;
    return rest > 0 ? -1 : rest < 0;
}

int vd_number_order(const struct vd_value *a, const struct vd_value *b)
{
    int64_t x, y;
    double f, g;
    bool a_int = vd_number_as_int(a, &x), b_int = vd_number_as_int(b, &y);
    if (a_int && b_int)
        return (x > y) - (x < y);
    vd_number_as_float(a, &f);
    vd_number_as_float(b, &g);
    if (a_int)
        return order_mixed(x, g);
    if (b_int) {
        int c = order_mixed(y, f);
        return c == 2 ? 2 : -c;
    }
    return isnan(f) || isnan(g) ? 2 : (f > g) - (f < g);
}

/* Python's: the quotient is rounded down, the remainder has the divisor's sign. */
static bool divide_ints(struct vd_run *r, enum vd_op op, int64_t x, int64_t y, int64_t *out)
{
    if (y == 0)
        return vd_run_fail(r, VD_EFORMAT, "division by zero");
    if (y == -1) {
        *out = 0;
        return op == VD_OP_MOD || !__builtin_sub_overflow((int64_t)0, x, out) || too_large(r);
    }
    int64_t q = x / y, m = x % y;
    bool down = m != 0 && (m < 0) != (y < 0);
    *out = op == VD_OP_MOD ? m + (down ? y : 0) : q - down;
    return true;
}

static bool power_ints(struct vd_run *r, int64_t x, int64_t y, int64_t *out)
{
    int64_t result = 1;
    for (; y > 0; y >>= 1) {
        if ((y & 1) && __builtin_mul_overflow(result, x, &result))
            return too_large(r);
        if (y > 1 && __builtin_mul_overflow(x, x, &x))
            return too_large(r);
    }
    *out = result;
    return true;
}

static bool on_ints(struct vd_run *r, enum vd_op op, int64_t x, int64_t y, int64_t *out)
{
    bool overflow = false;
    if (op == VD_OP_ADD)
        overflow = __builtin_add_overflow(x, y, out);
    else if (op == VD_OP_SUB)
        overflow = __builtin_sub_overflow(x, y, out);
    else if (op == VD_OP_MUL)
        overflow = __builtin_mul_overflow(x, y, out);
    else if (op == VD_OP_POW)
        return power_ints(r, x, y, out);
    else
        return divide_ints(r, op, x, y, out);
    return !overflow || too_large(r);
}

/* Python's float_divmod. */
static double divide_floats(enum vd_op op, double f, double g)
{
    double m = fmod(f, g), q = (f - m) / g;
    if (m != 0 && (g < 0) != (m < 0)) {
        m += g;
        q -= 1;
    } else if (m == 0) {
        m = copysign(0, g);
    }
    if (op == VD_OP_MOD)
        return m;
    double whole = floor(q);
    return q == 0 ? copysign(0, f / g) : q - whole > 0.5 ? whole + 1 : whole;
}

static bool power_floats(struct vd_run *r, double f, double g, double *out)
{
    if (f == 0 && g < 0)
        return vd_run_fail(r, VD_EFORMAT, "0 to a negative power");
    if (f < 0 && isfinite(f) && isfinite(g) && g != floor(g))
        return vd_run_fail(r, VD_EUNSUPPORTED, "complex numbers are not supported");
    *out = pow(f, g);
    return !isinf(*out) || isinf(f) || isinf(g) || vd_run_fail(r, VD_EFORMAT, "a power is too large");
}

static bool on_floats(struct vd_run *r, enum vd_op op, double f, double g, double *out)
{
    if (op == VD_OP_POW)
        return power_floats(r, f, g, out);
    if ((op == VD_OP_DIV || op == VD_OP_FLOORDIV || op == VD_OP_MOD) && g == 0)
        return vd_run_fail(r, VD_EFORMAT, "division by zero");
    *out = op == VD_OP_ADD   ? f + g
           : op == VD_OP_SUB ? f - g
           : op == VD_OP_MUL ? f * g
           : op == VD_OP_DIV ? f / g
                             : divide_floats(op, f, g);
    return true;
}

bool vd_op_number(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                  struct vd_value *out)
{
    int64_t x = 0, y = 0;
    double f, g;
    bool ints = vd_number_as_int(a, &x) && vd_number_as_int(b, &y);
    if (ints && op != VD_OP_DIV && (op != VD_OP_POW || y >= 0)) {
        *out = vd_value_int(0);
        return on_ints(r, op, x, y, &out->i);
    }
    vd_number_as_float(a, &f);
    vd_number_as_float(b, &g);
    *out = vd_value_float(0);
    return on_floats(r, op, f, g, &out->f);
}

/* ---- text ---- */

/* The shortest digits that give f again, as Python: an exponent below 1e-4 and from 1e16 on. */
size_t vd_number_write(char out[VD_NUMBER_TEXT_MAX], double f, bool json)
{
    char text[VD_NUMBER_TEXT_MAX], digits[VD_NUMBER_TEXT_MAX];
    int n = 0, precision = 0;
    if (isnan(f))
        return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, json ? "NaN" : "nan");
    if (isinf(f))
        return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, "%s%s", f < 0 ? "-" : "", json ? "Infinity" : "inf");
    do
        snprintf(text, sizeof text, "%.*e", precision, f);
    while (strtod(text, NULL) != f && ++precision < 17);
    char *e = strchr(text, 'e');
    int exponent = atoi(e + 1);
    for (const char *p = text; p < e; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    digits[n] = 0;
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "",
                                digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    if (exponent < 0)
        return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    if (n <= exponent + 1)
        return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, "%s%s%.*s.0", sign, digits, exponent + 1 - n,
                                "0000000000000000");
    return (size_t)snprintf(out, VD_NUMBER_TEXT_MAX, "%s%.*s.%s", sign, exponent + 1, digits,
                            digits + exponent + 1);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Copies digits from s.p[*i] on, without single _ between them. Returns how many; more than `room` is room
 * + 1.
 */
static size_t copy_digits(struct vd_str s, size_t *i, char *to, size_t room)
{
    size_t n = 0;
    while (*i < s.n &&
           (is_digit(s.p[*i]) || (n > 0 && s.p[*i] == '_' && *i + 1 < s.n && is_digit(s.p[*i + 1])))) {
        char c = s.p[(*i)++];
        if (c == '_')
            continue;
        if (n > room)
            return n;
        if (n < room)
            to[n] = c;
        n++;
    }
    return n;
}

bool vd_number_read_int(struct vd_str s, int64_t *out, bool *large)
{
    int64_t v = 0;
    s = vd_string_trim(s);
    size_t i = s.n && (s.p[0] == '-' || s.p[0] == '+');
    bool minus = i && s.p[0] == '-', any = false;
    *large = false;
    for (; i < s.n; i++) {
        if (s.p[i] == '_' && any && s.p[i - 1] != '_' && i + 1 < s.n)
            continue;
        if (!is_digit(s.p[i]))
            return false;
        any = true;
        *large |= __builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, s.p[i] - '0', &v);
    }
    *large |= !minus && v == INT64_MIN;
    *out = minus || *large ? v : -v;
    return any && !*large;
}

/* inf, infinity, nan in any case. */
static bool read_name(const char *p, size_t n, double *f)
{
    static const char *const names[] = {"inf", "infinity", "nan"};
    for (size_t k = 0; k < 3; k++) {
        size_t i = 0;
        while (i < n && names[k][i] && (p[i] | 32) == names[k][i])
            i++;
        if (i == n && n && !names[k][i]) {
            *f = k == 2 ? (double)NAN : (double)INFINITY;
            return true;
        }
    }
    return false;
}

bool vd_number_read_float(struct vd_str s, double *out)
{
    enum { DIGITS_MAX = 800 }; /* more digits than any float needs to be rounded correctly */
    char text[2 * DIGITS_MAX + 40];
    s = vd_string_trim(s);
    size_t i = s.n && (s.p[0] == '-' || s.p[0] == '+'), n = 0, whole, part = 0, power = 1;
    bool minus = i && s.p[0] == '-';
    if (read_name(s.p + i, s.n - i, out)) {
        *out = minus ? -*out : *out;
        return true;
    }
    n = whole = copy_digits(s, &i, text, DIGITS_MAX);
    if (n > DIGITS_MAX)
        return false;
    if (i < s.n && s.p[i] == '.') {
        i++;
        text[n++] = '.';
        part = copy_digits(s, &i, text + n, DIGITS_MAX);
        n += part;
    }
    if (whole + part == 0 || part > DIGITS_MAX)
        return false;
    if (i < s.n && (s.p[i] | 32) == 'e') {
        text[n++] = 'e';
        i++;
        if (i < s.n && (s.p[i] == '-' || s.p[i] == '+'))
            text[n++] = s.p[i++];
        power = copy_digits(s, &i, text + n, 8);
        n += power;
    }
    if (i != s.n || power == 0 || power > 8)
        return false;
    text[n] = 0;
    *out = strtod(text, NULL);
    *out = minus ? -*out : *out;
    return true;
}

/* ---- filters ---- */

/* "x is undefined". */
static bool refuse_undefined(struct vd_run *r, const struct vd_value *v, struct vd_value *out)
{
    return vd_op_attr(r, v, (struct vd_str){"", 0}, out);
}

/* int(f) if it has one. */
static bool float_to_int(struct vd_run *r, double f, struct vd_value *out)
{
    if (!isfinite(f))
        return true;
    if (!(f > -0x1p63 && f < 0x1p63))
        return too_large(r);
    *out = vd_value_int((int64_t)f);
    return true;
}

bool vd_number_filter_int(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                          struct vd_value *out)
{
    const struct vd_value *missing = vd_args_find(a, 0, "default");
    int64_t base;
    bool large;
    double f;
    if (!vd_args_int(r, a, 1, "base", 10, &base))
        return false;
    if (base != 10)
        return vd_run_fail(r, VD_EUNSUPPORTED, "int with another base than 10 is not supported");
    *out = missing ? *missing : vd_value_int(0);
    if (v->type == VD_VALUE_UNDEFINED)
        return refuse_undefined(r, v, out);
    if (v->type == VD_VALUE_FLOAT)
        return float_to_int(r, v->f, out);
    int64_t i;
    if (vd_number_as_int(v, &i))
        *out = vd_value_int(i);
    if (v->type != VD_VALUE_STR)
        return true;
    if (!vd_run_charge(r, v->s.n / 32))
        return false;
    if (vd_number_read_int(v->s, &i, &large))
        *out = vd_value_int(i);
    else if (large)
        return too_large(r);
    else if (vd_number_read_float(v->s, &f))
        return float_to_int(r, f, out);
    return true;
}

bool vd_number_filter_float(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                            struct vd_value *out)
{
    const struct vd_value *missing = vd_args_find(a, 0, "default");
    double f;
    *out = missing ? *missing : vd_value_float(0);
    if (v->type == VD_VALUE_UNDEFINED)
        return refuse_undefined(r, v, out);
    if (vd_number_as_float(v, &f) || (v->type == VD_VALUE_STR && vd_number_read_float(v->s, &f)))
        *out = vd_value_float(f);
    return vd_run_charge(r, v->type == VD_VALUE_STR ? v->s.n / 32 : 0);
}

static double round_to(double f, int64_t precision)
{
    char text[400];
    if (!isfinite(f) || precision > 300)
        return f;
    if (precision >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)precision, f); /* at most 309 + 1 + 300 digits: cut below */
        return strlen(text) < sizeof text - 1 ? strtod(text, NULL) : f;
    }
    double unit = pow(10, (double)-precision);
    return isfinite(unit) ? rint(f / unit) * unit : 0 * f;
}

bool vd_number_filter_round(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                            struct vd_value *out)
{
    int64_t precision, i;
    struct vd_str method;
    double f;
    if (!vd_args_int(r, a, 0, "precision", 0, &precision) ||
        !vd_args_str(r, a, 1, "method", "common", &method))
        return false;
    if (v->type == VD_VALUE_UNDEFINED)
        return refuse_undefined(r, v, out);
    bool up = vd_str_is(method, "ceil"), down = vd_str_is(method, "floor");
    if (!vd_number_as_float(v, &f) || (!up && !down && !vd_str_is(method, "common")))
        return vd_run_fail(r, VD_EFORMAT, "round needs a number, and the method common, ceil or floor");
    if (!up && !down && vd_number_as_int(v, &i) && precision >= 0) {
        *out = vd_value_int(i);
        return true;
    }
    if (precision < -300 || precision > 300 || (!up && !down && vd_number_as_int(v, &i)))
        return vd_run_fail(r, VD_EUNSUPPORTED, "round with this precision is not supported");
    double unit = pow(10, (double)precision);
    *out = vd_value_float(up     ? ceil(f * unit) / unit
                          : down ? floor(f * unit) / unit
                                 : round_to(f, precision));
    return true;
}

bool vd_number_filter_abs(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                          struct vd_value *out)
{
    int64_t i;
    (void)a;
    *out = *v;
    if (v->type == VD_VALUE_FLOAT) {
        out->f = fabs(v->f);
        return true;
    }
    if (!vd_number_as_int(v, &i))
        return v->type == VD_VALUE_UNDEFINED ? refuse_undefined(r, v, out)
                                             : vd_run_fail(r, VD_EFORMAT, "abs needs a number");
    if (i == INT64_MIN)
        return too_large(r);
    *out = vd_value_int(i < 0 ? -i : i);
    return true;
}
