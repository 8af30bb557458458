#include "k8s/exec_params.h"

void exec_param(struct buffer *out, const char *value) {
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        if (*c < 0x20 || *c > 0x7e || *c == '\\')
            buffer_printf(out, "\\0%03o", *c);
        else
            buffer_append_char(out, (char)*c);
    }
    buffer_append_char(out, '\n');
}

void exec_param_number(struct buffer *out, long long value) {
    buffer_printf(out, "%lld\n", value);
}
