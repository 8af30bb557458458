/* libssl (common/lazy.h). What is in libcrypto is linked as usual. */
#include <openssl/ssl.h>

#include "common/lazy_forward.h"

struct lazy_library lazy_ssl = {.soname = "libssl.so.3"};

LAZY(lazy_ssl, const SSL_METHOD *, TLS_client_method, (void), ());

LAZY(lazy_ssl, SSL_CTX *, SSL_CTX_new, (const SSL_METHOD *method), (method));
LAZY(lazy_ssl, int, SSL_CTX_up_ref, (SSL_CTX * ctx), (ctx));
LAZY_VOID(lazy_ssl, SSL_CTX_free, (SSL_CTX * ctx), (ctx));
LAZY(lazy_ssl, long, SSL_CTX_ctrl, (SSL_CTX * ctx, int command, long number, void *more),
     (ctx, command, number, more));
LAZY(lazy_ssl, int, SSL_CTX_check_private_key, (const SSL_CTX *ctx), (ctx));
LAZY(lazy_ssl, X509_STORE *, SSL_CTX_get_cert_store, (const SSL_CTX *ctx), (ctx));
LAZY(lazy_ssl, int, SSL_CTX_set_default_verify_paths, (SSL_CTX * ctx), (ctx));
LAZY_VOID(lazy_ssl, SSL_CTX_set_verify, (SSL_CTX * ctx, int mode, SSL_verify_cb callback),
          (ctx, mode, callback));
LAZY(lazy_ssl, int, SSL_CTX_use_PrivateKey, (SSL_CTX * ctx, EVP_PKEY *key), (ctx, key));
LAZY(lazy_ssl, int, SSL_CTX_use_certificate, (SSL_CTX * ctx, X509 *certificate), (ctx, certificate));

LAZY(lazy_ssl, SSL *, SSL_new, (SSL_CTX * ctx), (ctx));
LAZY_VOID(lazy_ssl, SSL_free, (SSL * ssl), (ssl));
LAZY(lazy_ssl, long, SSL_ctrl, (SSL * ssl, int command, long number, void *more),
     (ssl, command, number, more));
LAZY(lazy_ssl, int, SSL_do_handshake, (SSL * ssl), (ssl));
LAZY(lazy_ssl, X509_VERIFY_PARAM *, SSL_get0_param, (SSL * ssl), (ssl));
LAZY(lazy_ssl, int, SSL_get_error, (const SSL *ssl, int rc), (ssl, rc));
LAZY(lazy_ssl, long, SSL_get_verify_result, (const SSL *ssl), (ssl));
LAZY(lazy_ssl, int, SSL_read, (SSL * ssl, void *out, int size), (ssl, out, size));
LAZY(lazy_ssl, int, SSL_write, (SSL * ssl, const void *data, int size), (ssl, data, size));
LAZY(lazy_ssl, int, SSL_set1_host, (SSL * ssl, const char *name), (ssl, name));
LAZY_VOID(lazy_ssl, SSL_set_bio, (SSL * ssl, BIO *in, BIO *out), (ssl, in, out));
LAZY_VOID(lazy_ssl, SSL_set_connect_state, (SSL * ssl), (ssl));
LAZY(lazy_ssl, int, SSL_shutdown, (SSL * ssl), (ssl));
