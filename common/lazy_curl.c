/* libcurl (common/lazy.h). */
#include <curl/curl.h>

#include "common/lazy_forward.h"

#include <stdarg.h>

/* The header wraps these in macros that check or pass on arguments. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

struct lazy_library lazy_curl = {.soname = "libcurl.so.4"};

LAZY(lazy_curl, CURLcode, curl_global_init, (long flags), (flags));
LAZY_VOID(lazy_curl, curl_free, (void *p), (p));

LAZY(lazy_curl, CURL *, curl_easy_init, (void), ());
LAZY(lazy_curl, CURLcode, curl_easy_perform, (CURL * easy), (easy));
LAZY_VOID(lazy_curl, curl_easy_reset, (CURL * easy), (easy));
LAZY_VOID(lazy_curl, curl_easy_cleanup, (CURL * easy), (easy));
LAZY(lazy_curl, const char *, curl_easy_strerror, (CURLcode code), (code));

LAZY(lazy_curl, struct curl_slist *, curl_slist_append, (struct curl_slist * list, const char *text),
     (list, text));
LAZY_VOID(lazy_curl, curl_slist_free_all, (struct curl_slist * list), (list));

LAZY(lazy_curl, CURLM *, curl_multi_init, (void), ());
LAZY(lazy_curl, CURLMcode, curl_multi_add_handle, (CURLM * multi, CURL *easy), (multi, easy));
LAZY(lazy_curl, CURLMcode, curl_multi_remove_handle, (CURLM * multi, CURL *easy), (multi, easy));
LAZY(lazy_curl, CURLMcode, curl_multi_perform, (CURLM * multi, int *running), (multi, running));
LAZY(lazy_curl, CURLMcode, curl_multi_poll,
     (CURLM * multi, struct curl_waitfd extra[], unsigned int count, int timeout_ms, int *ready),
     (multi, extra, count, timeout_ms, ready));
LAZY(lazy_curl, CURLMcode, curl_multi_wakeup, (CURLM * multi), (multi));
LAZY(lazy_curl, CURLMsg *, curl_multi_info_read, (CURLM * multi, int *left), (multi, left));
LAZY(lazy_curl, CURLMcode, curl_multi_cleanup, (CURLM * multi), (multi));

LAZY(lazy_curl, CURLU *, curl_url, (void), ());
LAZY(lazy_curl, CURLUcode, curl_url_set, (CURLU * url, CURLUPart part, const char *text, unsigned int flags),
     (url, part, text, flags));
/* Its first parameter became const. */
#define URL_ASKED                                                                                            \
    __typeof__(_Generic(&curl_url_get, CURLUcode(*)(CURLU *, CURLUPart, char **, unsigned int)               \
                        : (CURLU *)0, default                                                                \
                        : (const CURLU *)0))
LAZY(lazy_curl, CURLUcode, curl_url_get, (URL_ASKED url, CURLUPart part, char **text, unsigned int flags),
     (url, part, text, flags));
LAZY_VOID(lazy_curl, curl_url_cleanup, (CURLU * url), (url));

/* One argument follows, of a type that the option decides. */
__attribute__((visibility("hidden"))) CURLcode curl_easy_setopt(CURL *easy, CURLoption option, ...) {
    static void *_Atomic found;
    void *at = atomic_load_explicit(&found, memory_order_acquire);
    if (!at) at = lazy_find(&lazy_curl, &found, "curl_easy_setopt");
    CURLcode (*function)(CURL *, CURLoption, ...) = (CURLcode(*)(CURL *, CURLoption, ...))(uintptr_t)at;
    va_list rest;
    va_start(rest, option);
    CURLcode code;
    if (option < CURLOPTTYPE_OBJECTPOINT)
        code = function(easy, option, va_arg(rest, long));
    else if (option >= CURLOPTTYPE_OFF_T && option < CURLOPTTYPE_BLOB)
        code = function(easy, option, va_arg(rest, curl_off_t));
    else /* texts, lists, callbacks */
        code = function(easy, option, va_arg(rest, void *));
    va_end(rest);
    return code;
}

/* One argument follows: where the answer goes. */
__attribute__((visibility("hidden"))) CURLcode curl_easy_getinfo(CURL *easy, CURLINFO info, ...) {
    static void *_Atomic found;
    void *at = atomic_load_explicit(&found, memory_order_acquire);
    if (!at) at = lazy_find(&lazy_curl, &found, "curl_easy_getinfo");
    CURLcode (*function)(CURL *, CURLINFO, ...) = (CURLcode(*)(CURL *, CURLINFO, ...))(uintptr_t)at;
    va_list rest;
    va_start(rest, info);
    CURLcode code = function(easy, info, va_arg(rest, void *));
    va_end(rest);
    return code;
}
