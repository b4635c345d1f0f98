#include "ggml-retention.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

void ggml_retention_use_huge_pages(void * data, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // 2 MB, what x86-64 and ARM have: f16 cells are read at 25 GB/s instead of 21 (bench-attention,
    // docs/reference/performance-parts.md)
    const uintptr_t huge  = (uintptr_t) 2 << 20;
    const uintptr_t begin = ((uintptr_t) data + huge - 1)/huge*huge;
    const uintptr_t end   = ((uintptr_t) data + size)/huge*huge;
    if (begin < end) {
        madvise((void *) begin, end - begin, MADV_HUGEPAGE); // advice: where the system has none, nothing is lost
    }
#else
    (void) data;
    (void) size;
#endif
}
