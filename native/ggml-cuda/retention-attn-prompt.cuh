// retention-attn-prompt.cuh - retention attention for many tokens
//
// A block has the query heads of one KV head for a run of tokens: 16 rows per warp. Tiles of cells are gathered from their
// pages into shared memory, one ahead of the one that is multiplied. All 16 rows of a matrix are rows here: queries in bf16
// are multiplied as heads and tails in two products, and so are weights; those in f16 are rounded once, as in stock attention.
// Blocks have the same grid whatever the lengths, so that recorded graphs can be replayed.

#pragma once

#include "retention-attn.cuh"

namespace retention {

template <ggml_type T, int D>
struct prompt_kernel {
    using traits = cell_traits<T>;

    static constexpr bool IS_LARGE = D > 128; // queries stay in shared memory, and fewer rows and cells are at work
    static constexpr int  WARPS    = IS_LARGE ? 2 : N_WARPS;
    static constexpr int  ROWS     = 16*WARPS;
    static constexpr int  CELLS    = IS_LARGE ? 16 : 32;
    static constexpr int  STAGES   = IS_LARGE || traits::n_parts > 1 ? 1 : 2;
    static constexpr int  N_STEPS  = (D + 31)/32;
    static constexpr int  N_BLOCKS = D/8; // of 8 columns
    static constexpr int  N_PARTS  = traits::half == half_type::f16 ? 1 : 2; // of queries and of weights

    // Bytes from row to row in shared memory: lanes that read at the same time then reach different banks. Of K a quarter warp
    // reads 64 bytes of two rows 4 apart, of V 16 bytes of 8 rows.
    static constexpr int ROW     = 2*D + 16;
    static constexpr int TILE    = CELLS*ROW; // of K or V
    static constexpr int STAGE   = traits::n_parts*2*TILE;
    static constexpr int Q_BYTES = IS_LARGE ? N_PARTS*ROWS*ROW : 0;
    static constexpr int SHARED  = STAGES*STAGE + Q_BYTES;

    // row of a block of 8 cells that is column i of its products
    static __device__ __forceinline__ int cell_of_column(int i) {
        return i/2 + i%2*4;
    }

    struct rows {
        int   token[2]; // of rows g and g + 8 of the warp, -1: no row
        int   head[2];
        int   end[2];   // cells that they see in this run
        float m[2];
        float l[2];
        float acc[N_BLOCKS][4];
    };

    // one tile of cells to shared memory: cells [c0, c0 + CELLS), of which the first lies before end. From end on they are zeros
    // or the last cell once more: their weights are 0.
    static __device__ __forceinline__ void start_tile(const attn_args & args, const list_view & list, int c0, int end, char * stage) {
        constexpr int N_RUNS  = D/8; // of 8 numbers of a row
        constexpr int THREADS = WARPS*LANES;

        // mostly a tile lies in one page, whose rows follow each other
        const bool    is_whole = (1 << args.pool.page_shift) >= CELLS;
        const int32_t page     = page_of(args.pool, list, c0);
        const char  * first_k  = k_row_of(args.pool, page, c0);
        const char  * first_v  = v_row_of(args.pool, page, c0);
        const auto k_row = [&](int row) {
            return is_whole ? first_k + row*cell_bytes<T>(D) : k_row_of(args.pool, page_of(args.pool, list, c0 + row), c0 + row);
        };
        const auto v_row = [&](int row) {
            return is_whole ? first_v + row*cell_bytes<T>(D) : v_row_of(args.pool, page_of(args.pool, list, c0 + row), c0 + row);
        };

        if constexpr (T == GGML_TYPE_F16 || T == GGML_TYPE_BF16) {
            for (int i = threadIdx.x; i < CELLS*N_RUNS; i += THREADS) {
                const int row = i/N_RUNS;
                const int run = i%N_RUNS;
                char * to_k = stage + row*ROW + 16*run;
                char * to_v = to_k + TILE;
                if (c0 + row < end) {
                    start_copy_16(to_k, k_row(row) + 16*run);
                    start_copy_16(to_v, v_row(row) + 16*run);
                } else {
                    *(uint4 *) to_k = make_uint4(0, 0, 0, 0);
                    *(uint4 *) to_v = make_uint4(0, 0, 0, 0);
                }
            }
            end_copy_group();
        } else {
            // runs that are asked for before any is unpacked; more would take registers from the products
            constexpr int AHEAD = T == GGML_TYPE_F32 ? 1 : 2;
#pragma unroll 1
            for (int first = threadIdx.x; first < CELLS*N_RUNS; first += AHEAD*THREADS) {
                raw_8<T> k[AHEAD], v[AHEAD];
#pragma unroll
                for (int n = 0; n < AHEAD; ++n) {
                    const int i   = first + n*THREADS < CELLS*N_RUNS ? first + n*THREADS : first;
                    const int row = c0 + i/N_RUNS < end ? i/N_RUNS : end - 1 - c0;
                    k[n] = load_8<T>(k_row(row), i%N_RUNS*8);
                    v[n] = load_8<T>(v_row(row), i%N_RUNS*8);
                }
#pragma unroll
                for (int n = 0; n < AHEAD; ++n) {
                    const int i = first + n*THREADS;
                    if (i < CELLS*N_RUNS) {
                        const auto x = unpack_8<T>(k[n], i%N_RUNS*8);
                        const auto y = unpack_8<T>(v[n], i%N_RUNS*8);
                        char * to_k = stage + i/N_RUNS*ROW + i%N_RUNS*16;
                        char * to_v = to_k + traits::n_parts*TILE;
#pragma unroll
                        for (int p = 0; p < traits::n_parts; ++p) {
                            *(uint4 *) (to_k + p*TILE) = make_uint4(x.x[p][0], x.x[p][1], x.x[p][2], x.x[p][3]);
                            *(uint4 *) (to_v + p*TILE) = make_uint4(y.x[p][0], y.x[p][1], y.x[p][2], y.x[p][3]);
                        }
                    }
                }
            }
        }
    }

    // the queries of the warp's rows as the first factor: part 0 heads, part 1 tails; words 0, 2 of rows g, 1, 3 of rows g + 8
    struct queries {
        uint32_t x[IS_LARGE ? 1 : N_STEPS][N_PARTS][2][4];
    };

    static __device__ __forceinline__ void load_queries(const attn_args & args, const rows & r, queries & q, char * shared) {
        const int t = threadIdx.x % 4;
        const int g = threadIdx.x / 4; // row of the block's rows that are 16 per warp: 8 for each half
#pragma unroll
        for (int step = 0; step < N_STEPS; ++step) {
            const int i0 = 32*step + 8*t;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const bool    is_row = r.token[half] >= 0 && i0 < D;
                const float * src    = args.q + r.head[half]*args.q_head + r.token[half]*args.q_token + i0;
                uint32_t parts[2][4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float x0 = is_row ? src[2*i + 0]*args.q_scale : 0.0f;
                    const float x1 = is_row ? src[2*i + 1]*args.q_scale : 0.0f;
                    split<traits::half>(x0, x1, parts[0][i], parts[1][i]);
                }
#pragma unroll
                for (int p = 0; p < N_PARTS; ++p) {
                    if constexpr (IS_LARGE) {
                        if (i0 < D) {
                            *(uint4 *) (shared + ((p*2 + half)*ROWS/2 + g)*ROW + 2*i0) =
                                make_uint4(parts[p][0], parts[p][1], parts[p][2], parts[p][3]);
                        }
                    } else {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            q.x[step][p][half][i] = parts[p][i];
                        }
                    }
                }
            }
        }
    }

    static __device__ __forceinline__ void multiply_tile(
            const attn_args & args, rows & r, const queries & q, const char * shared, const char * stage, int c0) {
        const int g = threadIdx.x % LANES / 4;
        const int t = threadIdx.x % 4;

        float s[CELLS/8][4] = {};
#pragma unroll
        for (int step = 0; step < N_STEPS; ++step) {
            const bool is_there = 32*step + 8*t < D;

            uint32_t now[N_PARTS][2][4];
#pragma unroll
            for (int p = 0; p < N_PARTS; ++p) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    uint4 x = make_uint4(0, 0, 0, 0);
                    if constexpr (IS_LARGE) {
                        if (is_there) {
                            x = *(const uint4 *) (shared + ((p*2 + half)*ROWS/2 + threadIdx.x/4)*ROW + 64*step + 16*t);
                        }
                    } else {
                        x = make_uint4(q.x[step][p][half][0], q.x[step][p][half][1], q.x[step][p][half][2], q.x[step][p][half][3]);
                    }
                    now[p][half][0] = x.x;
                    now[p][half][1] = x.y;
                    now[p][half][2] = x.z;
                    now[p][half][3] = x.w;
                }
            }
#pragma unroll
            for (int part = 0; part < traits::n_parts; ++part) {
                uint4 k[CELLS/8];
#pragma unroll
                for (int i = 0; i < CELLS/8; ++i) {
                    k[i] = make_uint4(0, 0, 0, 0);
                    if (is_there) {
                        k[i] = *(const uint4 *) (stage + part*TILE + (8*i + cell_of_column(g))*ROW + 64*step + 16*t);
                    }
                }
                // products that follow each other add to different sums, so that none waits for the one before
#pragma unroll
                for (int p = 0; p < N_PARTS; ++p) {
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
                        const uint32_t a[4] = { now[p][0][2*n], now[p][1][2*n], now[p][0][2*n + 1], now[p][1][2*n + 1] };
#pragma unroll
                        for (int i = 0; i < CELLS/8; ++i) {
                            const uint32_t b[2] = { n == 0 ? k[i].x : k[i].z, n == 0 ? k[i].y : k[i].w };
                            mma<traits::half>(s[i], a, b);
                        }
                    }
                }
            }
        }

        // s[i] has the cells 8i + t (0, 2) and 8i + t + 4 (1, 3) of rows g (0, 1) and g + 8 (2, 3)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float m = r.m[half];
#pragma unroll
            for (int i = 0; i < CELLS/8; ++i) {
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    float & x = s[i][2*half + n];
                    x = c0 + 8*i + t + 4*n < r.end[half] ? soft_cap(args, x) : -INFINITY;
                    m = fmaxf(m, x);
                }
            }
            m = lane_max(m, 1, 2);

            const float from  = m == -INFINITY ? 0.0f : m; // of a row that sees no cell yet every weight is 0
            const float scale = exp2_fast(r.m[half] - from);
            r.m[half] = m;
            r.l[half] *= scale;
#pragma unroll
            for (int i = 0; i < CELLS/8; ++i) {
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    float & x = s[i][2*half + n];
                    x = exp2_fast(x - from);
                    r.l[half] += x;
                }
            }
            // after the first tiles the maximum seldom changes
            if (scale != 1.0f) {
#pragma unroll
                for (int j = 0; j < N_BLOCKS; ++j) {
                    r.acc[j][2*half + 0] *= scale;
                    r.acc[j][2*half + 1] *= scale;
                }
            }
        }

        // the row that this lane tells the others the place of: of cells 0 to 7 or 8 to 15, in one of two blocks of columns
        const int    lane = threadIdx.x % LANES;
        const char * rows = stage + traits::n_parts*TILE + (lane/8%2*8 + cell_of_column(lane%8))*ROW + lane/16*16;
#pragma unroll
        for (int i = 0; i < CELLS/16; ++i) {
            uint32_t a[2][4]; // weights of 16 cells: heads, tails
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                split<traits::half>(s[2*i + 0][2*half], s[2*i + 0][2*half + 1], a[0][half + 0], a[1][half + 0]);
                split<traits::half>(s[2*i + 1][2*half], s[2*i + 1][2*half + 1], a[0][half + 2], a[1][half + 2]);
            }
#pragma unroll
            for (int part = 0; part < traits::n_parts; ++part) {
#pragma unroll
                for (int j = 0; j < N_BLOCKS; j += 2) {
                    uint32_t v[4];
                    load_transposed(v, rows + part*TILE + 16*i*ROW + 16*j);
#pragma unroll
                    for (int p = 0; p < N_PARTS; ++p) {
#pragma unroll
                        for (int n = 0; n < 2; ++n) {
                            const uint32_t b[2] = { v[2*n], v[2*n + 1] };
                            mma<traits::half>(r.acc[j + n], a[p], b);
                        }
                    }
                }
            }
        }
    }

    static __device__ __forceinline__ void write_rows(const attn_args & args, rows & r) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float l = lane_sum(r.l[half], 1, 2);
            if (r.token[half] < 0) {
                continue;
            }
            float scale = 1.0f;
            if (args.sinks) {
                const float sink = args.sinks[r.head[half]]*1.442695041f;
                const float m    = fmaxf(r.m[half], sink);
                scale = r.m[half] == -INFINITY ? 0.0f : exp2_fast(r.m[half] - m);
                l = l*scale + exp2_fast(sink - m);
            }
            scale = l > 0.0f ? scale/l : 0.0f;
            float * dst = args.dst + ((int64_t) r.token[half]*args.n_head + r.head[half])*D;
#pragma unroll
            for (int j = 0; j < N_BLOCKS; ++j) {
                *(float2 *) (dst + 8*j + 2*t) = make_float2(r.acc[j][2*half]*scale, r.acc[j][2*half + 1]*scale);
            }
        }
    }

    // tokens of a block: as many as fit with all query heads of a slice
    static __host__ __device__ int n_tile_tokens(const attn_args & args) {
        return ROWS/args.n_rows;
    }

    // block: (run of tokens, KV head and slice)
    static __device__ __forceinline__ void run(const attn_args & args, char * shared) {
        const int warp    = threadIdx.x / LANES;
        const int g       = threadIdx.x % LANES / 4;
        const int head_kv = blockIdx.y/args.n_slices;
        const int slice   = blockIdx.y%args.n_slices;
        const int n_tile  = n_tile_tokens(args);
        const int t0      = blockIdx.x*n_tile;
        const int t1      = t0 + n_tile < args.n_tokens ? t0 + n_tile : args.n_tokens;

        // the tokens of one sequence after another
        for (int begin = t0; begin < t1; ) {
            const int seq = args.pool.tokens[3*begin];
            int end   = begin;
            int n_vis = 0;
            while (end < t1 && args.pool.tokens[3*end] == seq) {
                n_vis = args.pool.tokens[3*end + 1] > n_vis ? args.pool.tokens[3*end + 1] : n_vis;
                ++end;
            }
            const auto list    = view_list(args.pool, begin, head_kv);
            const int  n_cells = list.n_old + n_vis;

            rows r;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row   = 16*warp + g + 8*half;
                const int token = t0 + row/args.n_rows;
                const int h     = slice*args.n_rows + row%args.n_rows;
                const bool is_row = row < n_tile*args.n_rows && h < args.n_group && token >= begin && token < end;
                r.token[half] = is_row ? token : -1;
                r.head[half]  = is_row ? head_kv*args.n_group + h : 0;
                r.end[half]   = is_row ? list.n_old + args.pool.tokens[3*token + 1] : 0;
                r.m[half]     = -INFINITY;
                r.l[half]     = 0.0f;
            }
#pragma unroll
            for (int j = 0; j < N_BLOCKS; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    r.acc[j][i] = 0.0f;
                }
            }
            queries q;
            load_queries(args, r, q, shared + STAGES*STAGE);

            if constexpr (STAGES == 2) {
                start_tile(args, list, 0, n_cells, shared);
            }
            for (int c0 = 0, i = 0; c0 < n_cells; c0 += CELLS, ++i) {
                if constexpr (STAGES == 2) {
                    // the barrier says that this tile is there, and that nobody reads the one before it any more
                    wait_copies<0>();
                    __syncthreads();
                    if (c0 + CELLS < n_cells) {
                        start_tile(args, list, c0 + CELLS, n_cells, shared + (i + 1)%2*STAGE);
                    }
                } else {
                    start_tile(args, list, c0, n_cells, shared);
                    wait_copies<0>();
                    __syncthreads();
                }
                multiply_tile(args, r, q, shared + STAGES*STAGE, shared + (STAGES == 2 ? i%2*STAGE : 0), c0);
                if constexpr (STAGES == 1) {
                    __syncthreads();
                }
            }
            if constexpr (STAGES == 2) {
                wait_copies<0>();
                __syncthreads();
            }
            write_rows(args, r);
            begin = end;
        }
    }
};

template <ggml_type T, int D>
static __global__ void __launch_bounds__((prompt_kernel<T, D>::WARPS*LANES)) retention_attn_prompt(const attn_args args) {
    prompt_kernel<T, D>::run(args, (char *) dynamic_shared());
}

// the cells of all tokens, before a prompt kernel: a warp for each row of a token and KV head
template <ggml_type T, int D>
static __global__ void retention_attn_store(const attn_args args) {
    const int i = blockIdx.x*N_WARPS + threadIdx.x/LANES;
    if (i < 2*args.n_tokens*args.n_head_kv) {
        store_half_cell<T, D>(args, i/2/args.n_head_kv, i/2%args.n_head_kv, i%2);
    }
}

} // namespace retention
