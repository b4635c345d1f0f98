// none.cpp - nothing is evicted; a ubatch that does not fit is refused

#include "retain-policy.h"

extern const retain_policy retain_policy_none = {
    /*.name          =*/ "none",
    /*.description   =*/ "everything, or an error",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ false,
    /*.needs_queries =*/ false,
    /*.score         =*/ nullptr,
};
