#include "k8s/resource_version.h"

#include <string.h>

static bool is_number(const char *text, size_t len) {
    return len > 0 && text[0] != '0' && strspn(text, "0123456789") == len;
}

bool resource_version_compare(const char *a, const char *b, int *order) {
    size_t n = strlen(a), m = strlen(b);
    if (!is_number(a, n) || !is_number(b, m)) return false;
    *order = n != m ? (n > m ? 1 : -1) : strcmp(a, b);
    return true;
}
