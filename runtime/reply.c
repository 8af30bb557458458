#include "runtime/reply.h"

#include "common/text.h"

static const struct {
    int status;
    const char *reason;
} reasons[] = {
    {200, "OK"},
    {201, "Created"},
    {204, "No Content"},
    {206, "Partial Content"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {416, "Range Not Satisfiable"},
    {426, "Upgrade Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {507, "Insufficient Storage"},
};

const char *reply_reason(int status) {
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status) return reasons[i].reason;
    return "Error";
}

void json_text_error(struct buffer *out, const struct error *err) {
    buffer_printf(out, "{\"code\":%d,\"error\":", err->status);
    json_text_string(out, slice_of(err->message));
    buffer_append_str(out, ",\"reason\":");
    json_text_string(out, slice_of(err->code ? err->code : ERR_INTERNAL));
    buffer_append_str(out, "}\n");
}

bool reply_head(struct conn *c, int status, const char *headers) {
    cleanup_buffer struct buffer head = {0};
    buffer_printf(&head, "HTTP/1.1 %d %s\r\n%sConnection: close\r\n\r\n", status, reply_reason(status),
                  headers);
    c->answered = true;
    return conn_send(c, buffer_slice(&head));
}

bool reply(struct conn *c, int status, const char *content_type, const char *headers, struct slice body) {
    cleanup_buffer struct buffer out = {0};
    buffer_printf(&out, "HTTP/1.1 %d %s\r\n", status, reply_reason(status));
    if (*content_type) buffer_printf(&out, "Content-Type: %s\r\n", content_type);
    if (status != 204) buffer_printf(&out, "Content-Length: %zu\r\n", body.len);
    buffer_printf(&out, "%sConnection: close\r\n\r\n", headers);
    c->answered = true;
    buffer_append(&out, body.ptr, body.len);
    return conn_send(c, buffer_slice(&out));
}

bool reply_json(struct conn *c, int status, const struct buffer *body) {
    return reply(c, status, "application/json", "", buffer_slice(body));
}

bool reply_error(struct conn *c, const struct error *err) {
    cleanup_buffer struct buffer body = {0};
    json_text_error(&body, err);
    const char *headers = err->status == 503 || err->status == 429 ? "Retry-After: 1\r\n" : "";
    return reply(c, err->status, "application/json", headers, buffer_slice(&body));
}
