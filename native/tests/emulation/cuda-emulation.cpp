// cuda-emulation.cpp - the threads of a block as fibers, and where they meet

#include "cuda-emulation.h"

#include "ggml-impl.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace emulation {

dim3 block_index;
dim3 thread_index;
bool descending = false;
bool has_matrix_units = true;

namespace {

constexpr size_t STACK_BYTES = 256*1024;
constexpr size_t SLOT_BYTES  = 32; // most that a lane hands over

enum class wait_for { nothing, warp, block, done };

struct fiber {
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    ucontext_t              context; // to begin with
    jmp_buf                 place;   // to go on
    bool                    begun;
    wait_for                waits;
    int                     n_meetings; // with its warp
    std::vector<std::vector<std::pair<void *, const void *>>> copies; // groups that were not waited for; the last is open
};

struct warp_slots {
    char bytes[2][WARP*SLOT_BYTES]; // of this meeting and of the one before, which some lanes still read
};

std::vector<fiber>      fibers;
std::vector<warp_slots> warps;
std::vector<uint4>      shared;

jmp_buf scheduler;
int     current;

const std::function<void()> * kernel;

// Fibers begin in a context of their own and change by _longjmp, which unlike swapcontext makes no system call. There is a
// change for every lane of every product.

void leave(wait_for what) {
    fibers[current].waits = what;
    if (what == wait_for::done || _setjmp(fibers[current].place) == 0) {
        _longjmp(scheduler, 1);
    }
}

void run_fiber() {
    (*kernel)();
    leave(wait_for::done);
}

void resume(int i) {
    current      = i;
    thread_index = dim3(i);
    if (_setjmp(scheduler) == 0) {
        if (fibers[i].begun) {
            _longjmp(fibers[i].place, 1);
        }
        fibers[i].begun = true;
        setcontext(&fibers[i].context);
    }
}

// run the lanes of a warp until none can go on without another warp
void run_warp(int first, int n) {
    for (bool runs = true; runs;) {
        runs = false;
        for (int i = 0; i < n; ++i) {
            const int lane = first + (descending ? n - 1 - i : i);
            if (fibers[lane].waits == wait_for::nothing) {
                resume(lane);
                runs = true;
            }
        }
        int n_waiting = 0;
        for (int i = 0; i < n; ++i) {
            n_waiting += fibers[first + i].waits == wait_for::warp;
        }
        if (n_waiting > 0) {
            GGML_ASSERT(n_waiting == WARP && "some lanes of a warp do not come to where the others wait");
            for (int i = 0; i < n; ++i) {
                fibers[first + i].waits = wait_for::nothing;
            }
            runs = true;
        }
    }
}

void run_block(int n_threads) {
    for (int i = 0; i < n_threads; ++i) {
        fiber & f = fibers[i];
        f.waits      = wait_for::nothing;
        f.n_meetings = 0;
        f.begun      = false;
        f.copies.assign(1, {});
        getcontext(&f.context);
        f.context.uc_stack.ss_sp   = f.stack.get();
        f.context.uc_stack.ss_size = STACK_BYTES;
        f.context.uc_link          = nullptr;
        makecontext(&f.context, run_fiber, 0);
    }
    for (;;) {
        const int n_warps = (n_threads + WARP - 1)/WARP;
        for (int i = 0; i < n_warps; ++i) {
            const int w = descending ? n_warps - 1 - i : i;
            run_warp(w*WARP, std::min(WARP, n_threads - w*WARP));
        }
        int n_done = 0;
        for (int i = 0; i < n_threads; ++i) {
            n_done += fibers[i].waits == wait_for::done;
        }
        if (n_done == n_threads) {
            return;
        }
        GGML_ASSERT(n_done == 0 && "some threads of a block end while others wait at a barrier");
        for (int i = 0; i < n_threads; ++i) {
            fibers[i].waits = wait_for::nothing;
        }
    }
}

} // namespace

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> & fn) {
    GGML_ASSERT(block.y == 1 && block.z == 1 && block.x % WARP == 0);
    kernel = &fn;
    while (fibers.size() < block.x) {
        fibers.emplace_back();
    }
    warps.resize(fibers.size()/WARP);
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
        for (unsigned i = 0; i < grid.x; ++i) {
            block_index.x = descending ? grid.x - 1 - i : i;
            shared.assign((shared_bytes + 15)/16, { ~0u, ~0u, ~0u, ~0u });
            run_block(block.x);
        }
    }
}

void * shared_memory() {
    return shared.data();
}

void sync_block() {
    leave(wait_for::block);
}

const char * meet_warp(const void * mine, size_t n) {
    GGML_ASSERT(n <= SLOT_BYTES);
    fiber & f    = fibers[current];
    char  * slot = warps[current/WARP].bytes[f.n_meetings++ % 2];
    memcpy(slot + current%WARP*n, mine, n);
    leave(wait_for::warp);
    return slot;
}

// every f16 number, since a call of ggml's for each factor of each product would take most of the time
static const std::vector<float> & f16_numbers() {
    static const std::vector<float> res = [] {
        std::vector<float> all(1 << 16);
        for (size_t i = 0; i < all.size(); ++i) {
            all[i] = ggml_fp16_to_fp32(i);
        }
        return all;
    }();
    return res;
}

float widen(uint16_t half, bool is_f16) {
    static const float * f16 = f16_numbers().data();
    if (is_f16) {
        return f16[half];
    }
    const uint32_t bits = (uint32_t) half << 16;
    float res;
    memcpy(&res, &bits, sizeof(res));
    return res;
}

uint16_t round(float x, bool is_f16) {
    return is_f16 ? ggml_fp32_to_fp16(x) : ggml_fp32_to_bf16(x).bits;
}

void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool is_f16) {
    struct operands { uint32_t a[4], b[2]; } mine;
    memcpy(mine.a, a, sizeof(a));
    memcpy(mine.b, b, sizeof(b));
    const auto * lanes = (const operands *) meet_warp(&mine, sizeof(mine));

    const int lane = threadIdx.x % WARP;
    for (int i = 0; i < 4; ++i) {
        const int row = lane/4 + i/2*8;
        const int col = lane%4*2 + i%2;
        float sum = 0.0f;
        for (int k = 0; k < 16; ++k) {
            const uint32_t x = lanes[row%8*4 + k%8/2].a[k/8*2 + row/8];
            const uint32_t y = lanes[col*4   + k%8/2].b[k/8];
            sum += widen(x >> 16*(k%2) & 0xffff, is_f16)*widen(y >> 16*(k%2) & 0xffff, is_f16);
        }
        c[i] += sum;
    }
}

} // namespace emulation

namespace retention {

void start_copy_16(void * shared, const void * global) {
    emulation::fibers[emulation::current].copies.back().emplace_back(shared, global);
}

void end_copy_group() {
    emulation::fibers[emulation::current].copies.emplace_back();
}

void wait_copies_but(int n) {
    auto & groups = emulation::fibers[emulation::current].copies;
    while ((int) groups.size() - 1 > n) { // the last is open
        for (const auto & [to, from] : groups.front()) {
            memcpy(to, from, 16);
        }
        groups.erase(groups.begin());
    }
}

} // namespace retention
