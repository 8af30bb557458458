/* What libmicrohttpd would call for TLS of its own, which our servers never ask it for: TLS ends in front of
 * them. Standing in for GnuTLS saves every start the loading of it and of the eight libraries that it brings,
 * which cost 2 MB of memory. Only the two functions that libmicrohttpd calls at start and end are ever
 * reached.
 *
 * meson.build takes the static libmicrohttpd when it links with these, and the shared one otherwise. */
#include <stdio.h>
#include <stdlib.h>

#define HIDDEN __attribute__((visibility("hidden")))

int gnutls_global_init(void);
HIDDEN int gnutls_global_init(void) {
    return 0;
}

void gnutls_global_deinit(void);
HIDDEN void gnutls_global_deinit(void) {}

extern void *(*gnutls_malloc)(size_t);
HIDDEN void *(*gnutls_malloc)(size_t) = malloc;

static _Noreturn void unreachable(const char *name) {
    fprintf(stderr, "%s was called, in a program without TLS servers\n", name);
    abort();
}

#define WITHOUT(name)                                                                                        \
    void gnutls_##name(void);                                                                                \
    HIDDEN void gnutls_##name(void) {                                                                        \
        unreachable("gnutls_" #name);                                                                        \
    }                                                                                                        \
    struct without /* takes the semicolon */

WITHOUT(alpn_set_protocols);
WITHOUT(bye);
WITHOUT(certificate_allocate_credentials);
WITHOUT(certificate_free_credentials);
WITHOUT(certificate_server_set_request);
WITHOUT(certificate_set_dh_params);
WITHOUT(certificate_set_retrieve_function2);
WITHOUT(certificate_set_retrieve_function3);
WITHOUT(certificate_set_x509_key_mem);
WITHOUT(certificate_set_x509_key_mem2);
WITHOUT(certificate_set_x509_trust_mem);
WITHOUT(cipher_get);
WITHOUT(credentials_set);
WITHOUT(deinit);
WITHOUT(dh_params_deinit);
WITHOUT(dh_params_import_pkcs3);
WITHOUT(dh_params_init);
WITHOUT(handshake);
WITHOUT(init);
WITHOUT(priority_deinit);
WITHOUT(priority_init);
WITHOUT(priority_init2); /* since 1.0 */
WITHOUT(priority_set);
WITHOUT(protocol_get_version);
WITHOUT(psk_allocate_server_credentials);
WITHOUT(psk_free_server_credentials);
WITHOUT(psk_set_server_credentials_function);
WITHOUT(record_check_pending);
WITHOUT(record_get_direction);
WITHOUT(record_recv);
WITHOUT(record_send);
WITHOUT(session_get_ptr);
WITHOUT(session_set_ptr);
WITHOUT(strerror);
WITHOUT(transport_set_int2);
