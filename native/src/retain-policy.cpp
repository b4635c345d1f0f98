#include "retain-policy.h"

#include <cstring>

const retain_policy * const retain_policies[] = {
    &retain_policy_gate,
    &retain_policy_window,
    &retain_policy_knorm,
    &retain_policy_keydiff,
    &retain_policy_snapkv,
    &retain_policy_random,
    &retain_policy_none,
    nullptr,
};

const retain_policy * retain_policy_find(const char * name) {
    for (const auto * const * it = retain_policies; *it; ++it) {
        if (strcmp((*it)->name, name) == 0) {
            return *it;
        }
    }
    return nullptr;
}
