/* The caller (http-api.md 2.15). */
#include "router/handlers.h"

void user_me(struct request *r) {
    const struct identity *id = &r->identity;
    reply_json(r, 200,
               json_pack("{s:o, s:o, s:o, s:o, s:b}", "sub", json_string_repaired(slice_of(id->sub)), "email",
                         json_string_repaired(slice_of(id->email ? id->email : "")), "name",
                         json_string_repaired(slice_of(id->name ? id->name : "")), "groups",
                         id->groups ? json_deep_copy(id->groups) : json_array(), "isAdmin", id->is_admin));
}
