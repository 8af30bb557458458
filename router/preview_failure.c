/* How a preview that cannot be had is shown. See preview_failure.h. */
#include "router/preview_failure.h"

#include <stdio.h>
#include <strings.h>

static void append_html(struct buffer *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '&': buffer_append_str(out, "&amp;"); break;
        case '<': buffer_append_str(out, "&lt;"); break;
        case '>': buffer_append_str(out, "&gt;"); break;
        case '"': buffer_append_str(out, "&quot;"); break;
        default: buffer_append_char(out, *text);
        }
    }
}

void preview_reply_failure(struct request *r, const struct error *err) {
    const char *accept = request_header(r, "Accept");
    if (!accept || !strcasestr(accept, "text/html")) {
        reply_error(r, err);
        return;
    }
    struct buffer page = {0};
    buffer_printf(
        &page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>%d %s</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:36em;padding:0 1em}"
        "code{color:#666}</style></head>\n<body><h1>This preview is not available</h1>\n<p>",
        err->status, err->code);
    append_html(&page, err->message);
    buffer_printf(&page, "</p>\n<p><code>%d %s</code></p></body></html>\n", err->status, err->code);
    if (err->retry_after > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", err->retry_after);
        reply_header(r, "Retry-After", seconds);
    }
    reply_header(r, "Cache-Control", "no-store");
    reply_header(r, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
    size_t len;
    char *text = buffer_steal(&page, &len);
    reply_text(r, err->status, "text/html; charset=utf-8", text, len);
}
