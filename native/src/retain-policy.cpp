#include "retain-policy.h"

#include <cstring>

// one for each file in policies/
extern const retain_policy retain_policy_gate;
extern const retain_policy retain_policy_window;
extern const retain_policy retain_policy_knorm;
extern const retain_policy retain_policy_keydiff;
extern const retain_policy retain_policy_snapkv;
extern const retain_policy retain_policy_random;
extern const retain_policy retain_policy_none;

// in the order in which they are listed everywhere
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
