/* Writes random models as GGUF files that any engine loads: for comparisons of logits, and for measurements
 * of speed, which does not depend on what the weights are. */
#include "vd_test_model.h"

static const char usage[] =
    "usage: vd_make_model OUT FORM TYPE [VALUE_DOWN_TYPE]   a small model; vd_make_model --list names the "
    "forms\n"
    "       vd_make_model OUT 1.5b TYPE                     1.5 billion weights in the shape of Qwen 2.5, "
    "embedding\n"
    "                                                       and head in Q8_0\n"
    "TYPE is F32, F16, Q4_0, Q4_K, ...; VALUE_DOWN_TYPE is that of attn_v and ffn_down\n";

static bool find_type(const char *name, enum vd_wtype *out)
{
    for (uint32_t id = 0; id < 64; id++)
        if (vd_wtype_known(id) && strcmp(vd_wtype_info((enum vd_wtype)id)->name, name) == 0) {
            *out = (enum vd_wtype)id;
            return true;
        }
    return false;
}

static struct vd_test_model large(void)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form("qwen2"));
    t.n_layers = 28;
    t.width = 1536;
    t.n_heads = 12;
    t.head_dim = 128;
    t.ff_width = 8960;
    t.vocab = 151936;
    t.ctx = 32768;
    t.embd = VD_WTYPE_Q8_0;
    t.tokenizer = true;
    return t;
}

static int list(void)
{
    for (size_t i = 0; i < VD_TEST_ALL_FORMS; i++)
        puts(vd_test_forms[i].name);
    return 0;
}

int main(int argc, char **argv)
{
    struct vd_test_model t;
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    if (argc < 4 || argc > 5) {
        fputs(usage, stderr);
        return 2;
    }
    const struct vd_test_form *form = vd_test_form(argv[2]);
    bool is_large = strcmp(argv[2], "1.5b") == 0;
    t = is_large ? large() : form ? vd_test_model_of(form) : vd_test_model_default;
    if (!is_large) {
        vd_test_model_widen(&t);
        t.embd = VD_WTYPE_F16;
    }
    t.mixed = argc == 5;
    if ((!form && !is_large) || !find_type(argv[3], &t.mats) || (t.mixed && !find_type(argv[4], &t.v_down))) {
        fputs(usage, stderr);
        return 2;
    }
    if (vd_test_model_save(&t, argv[1]))
        return 0;
    fprintf(stderr, "%s: cannot be written\n", argv[1]);
    return 3;
}
