/* Nobody certifies keys here: a certificate is only the envelope in which TLS 1.3 carries an Ed25519 key, and
 * CertificateVerify proves that the peer holds it. So the verify callback accepts exactly one self-signed
 * Ed25519 certificate whose signature checks, whatever its name and dates; who may do what is decided above,
 * by key.
 *
 * Version by ALPN: the listener selects the dialer's veridem/N even when it does not speak N, so that the
 * handshake ends and the link can say good-bye with both versions in clear text; TLS's own alert would name
 * neither. A dialer that offers no veridem/N is not one of us and gets the alert. */
#include "vd_link_tls.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#define ALPN_PREFIX "veridem/"

static EVP_PKEY *pkey_of(const struct vd_keypair *key)
{
    return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->secret, VD_SEED_BYTES);
}

static X509 *certificate_of(EVP_PKEY *pkey)
{
    X509 *x = X509_new();
    X509_NAME *name = x ? X509_get_subject_name(x) : NULL;
    if (!name || !X509_set_version(x, X509_VERSION_3) || !ASN1_INTEGER_set(X509_get_serialNumber(x), 1) ||
        !X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"veridem", -1, -1, 0) ||
        !X509_set_issuer_name(x, name) || !ASN1_TIME_set_string(X509_getm_notBefore(x), "20200101000000Z") ||
        !ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z") || !X509_set_pubkey(x, pkey) ||
        !X509_sign(x, pkey, NULL)) {
        X509_free(x);
        return NULL;
    }
    return x;
}

static bool key_of(X509 *x, struct vd_pubkey *out)
{
    EVP_PKEY *k = x ? X509_get0_pubkey(x) : NULL;
    size_t n = VD_PUBKEY_BYTES;
    return k && EVP_PKEY_id(k) == EVP_PKEY_ED25519 && EVP_PKEY_get_raw_public_key(k, out->b, &n) == 1 &&
           n == VD_PUBKEY_BYTES;
}

/* Replaces OpenSSL's chain building. */
static int verify_self_signed(X509_STORE_CTX *store, void *arg)
{
    X509 *x = X509_STORE_CTX_get0_cert(store);
    STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(store);
    struct vd_pubkey key;
    (void)arg;
    bool ok =
        (!sent || sk_X509_num(sent) == 1) && key_of(x, &key) && X509_verify(x, X509_get0_pubkey(x)) == 1;
    X509_STORE_CTX_set_error(store, ok ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
    return ok;
}

/* The listener's choice: its own version if offered, else the first veridem/N. */
static int alpn_select(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
                       unsigned in_n, void *arg)
{
    const char *mine = arg;
    const unsigned char *other = NULL;
    (void)ssl;
    for (unsigned i = 0; i < in_n && i + 1u + in[i] <= in_n; i += 1u + in[i]) {
        if (in[i] == strlen(mine) && memcmp(in + i + 1, mine, in[i]) == 0) {
            *out = in + i + 1;
            *out_n = in[i];
            return SSL_TLSEXT_ERR_OK;
        }
        if (!other && in[i] > strlen(ALPN_PREFIX) &&
            memcmp(in + i + 1, ALPN_PREFIX, strlen(ALPN_PREFIX)) == 0)
            other = in + i;
    }
    if (!other)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = other + 1;
    *out_n = *other;
    return SSL_TLSEXT_ERR_OK;
}

static bool set_alpn(SSL_CTX *ctx, const char *protocol)
{
    unsigned char list[64];
    size_t n = strlen(protocol);
    if (n > sizeof list - 1)
        return false;
    list[0] = (unsigned char)n;
    memcpy(list + 1, protocol, n);
    SSL_CTX_set_alpn_select_cb(ctx, alpn_select, (void *)(uintptr_t)protocol);
    return SSL_CTX_set_alpn_protos(ctx, list, (unsigned)n + 1) == 0;
}

void vd_link_tls_reason(char out[160])
{
    unsigned long e = ERR_get_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;
    snprintf(out, 160, "%s", why ? why : "the peer closed the connection");
    ERR_clear_error();
}

enum vd_err vd_link_tls_ctx(SSL_CTX **out, const struct vd_keypair *key, const char *protocol,
                            struct vd_error *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    EVP_PKEY *pkey = pkey_of(key);
    X509 *x = pkey ? certificate_of(pkey) : NULL;
    bool ok = ctx && x && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
              SSL_CTX_use_certificate(ctx, x) == 1 && SSL_CTX_use_PrivateKey(ctx, pkey) == 1 &&
              SSL_CTX_set1_sigalgs_list(ctx, "ed25519") == 1 &&
              SSL_CTX_set1_groups_list(ctx, "X25519") == 1 && set_alpn(ctx, protocol);
    if (ok) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_cert_verify_callback(ctx, verify_self_signed, NULL);
        /* No resumption: each link proves its key anew. */
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(ctx, 0);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_max_cert_list(ctx, 4096);
        *out = ctx;
    }
    X509_free(x);
    EVP_PKEY_free(pkey);
    if (ok)
        return VD_OK;
    SSL_CTX_free(ctx);
    char why[160];
    vd_link_tls_reason(why);
    return vd_error_set(err, VD_ENOMEM, "cannot set up TLS 1.3 with an Ed25519 key: %s", why);
}

enum vd_err vd_link_tls_check(SSL *ssl, const char *protocol, struct vd_pubkey *peer, char theirs[64],
                              struct vd_error *err)
{
    const unsigned char *alpn;
    unsigned n;
    if (!key_of(SSL_get0_peer_certificate(ssl), peer))
        return vd_error_set(err, VD_EAUTH, "the peer showed no Ed25519 certificate");
    SSL_get0_alpn_selected(ssl, &alpn, &n);
    if (n >= 64 || n <= strlen(ALPN_PREFIX) || memcmp(alpn, ALPN_PREFIX, strlen(ALPN_PREFIX)) != 0)
        return vd_error_set(err, VD_EVERSION, "the peer does not speak %s (no protocol was agreed)",
                            protocol);
    for (unsigned i = 0; i < n; i++) /* it ends up in messages */
        theirs[i] = alpn[i] > 0x20 && alpn[i] < 0x7f ? (char)alpn[i] : '?';
    theirs[n] = 0;
    if (strcmp(theirs, protocol) != 0)
        return vd_error_set(err, VD_EVERSION,
                            "the peer speaks %s, this program %s: bring both to the same version", theirs,
                            protocol);
    return VD_OK;
}
