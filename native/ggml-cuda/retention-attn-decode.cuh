// retention-attn-decode.cuh - retention attention for few tokens
//
// What costs time is reading the cells, once each, so the work is cut by cells and not by lists: all lists together are a row
// of units of 64 cells, and each block takes an equal run of it, whatever the lengths of the lists. What it computes for a list
// is a piece; the last block to finish one of a list merges them all, in their order. Lengths are read on the device, so that
// a recorded graph can be replayed.
//
// A warp multiplies 16 cells at a time, as a matrix of 16 rows: 8 query heads as the heads of their numbers in 16 bits, and
// the same 8 as the tails. So products are as exact as those of f32 queries, at no cost, and lane 4g + t has both sums of
// query head g. The order of a row's numbers and of the 16 cells within the products is free, and chosen so that
// a lane reads 16 bytes of a row at once, straight from the pool: of K the numbers 32i + 8t to + 7 of a cell, of V the numbers
// 64i + 8g to + 7 of the cells t, t + 4, t + 8 and t + 12.

#pragma once

#include "retention-attn.cuh"

namespace retention {

constexpr int ROWS_DECODE = 8;          // query heads that a warp multiplies with
constexpr int UNIT        = 16*N_WARPS; // cells

static __device__ __forceinline__ int n_units(const attn_args & args, int list) {
    const int n_cells = view_list(args.pool, list_token(args, list), list_head_kv(args, list)).n_cells;
    return (n_cells + UNIT - 1)/UNIT;
}

// how the units of all lists are split over blocks; every warp computes the same
struct unit_split {
    int n_units = 0;
    int n_blocks;

    __device__ __forceinline__ explicit unit_split(const attn_args & args) {
        const int lane = threadIdx.x % LANES;
        for (int list = lane; list < n_lists(args); list += LANES) {
            n_units += retention::n_units(args, list);
        }
        for (int mask = 1; mask < LANES; mask *= 2) {
            n_units += __shfl_xor_sync(0xffffffffu, n_units, mask, LANES);
        }
        n_blocks = n_units < args.n_blocks ? n_units : args.n_blocks;
    }

    // the first unit of a block
    __device__ __forceinline__ int first_of(int block) const {
        return (int) ((int64_t) block*n_units/n_blocks);
    }

    __device__ __forceinline__ int block_of(int unit) const {
        return (int) (((int64_t) (unit + 1)*n_blocks - 1)/n_units);
    }
};

// Pieces are numbered by block + list: both only grow from one piece to the next.

// what a warp has of a piece
template <int D>
struct decode_state {
    static constexpr int N_SPANS = (D + 63)/64; // of 64 numbers of a row

    float m = -INFINITY; // of query head g
    float l = 0.0f;      // of the lane's cells
    float acc[N_SPANS][8][4] = {}; // number 64i + 8*column + j of rows g and g + 8
};

template <ggml_type T, int D>
struct decode_kernel {
    using traits = cell_traits<T>;

    static constexpr int N_STEPS = (D + 31)/32; // of 32 numbers of a row
    static constexpr int N_SPANS = decode_state<D>::N_SPANS;

    // the query heads of a list as the first factor
    struct queries {
        uint32_t head[N_STEPS][4];
        uint32_t tail[N_STEPS][4];
    };

    static __device__ __forceinline__ void load_queries(const attn_args & args, int list, queries & res) {
        const int g = threadIdx.x % LANES / 4;
        const int t = threadIdx.x % 4;
        const int h = list_head(args, list, g);
        const bool is_row = g < args.n_rows && h < args.n_head;
        const float * q = args.q + h*args.q_head + list_token(args, list)*args.q_token;
#pragma unroll
        for (int step = 0; step < N_STEPS; ++step) {
            const int i0 = 32*step + 8*t;
            float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            float4 y = x;
            if (is_row && i0 < D) {
                x = *(const float4 *) (q + i0);
                y = *(const float4 *) (q + i0 + 4);
            }
            split<traits::half>(x.x*args.q_scale, x.y*args.q_scale, res.head[step][0], res.tail[step][0]);
            split<traits::half>(x.z*args.q_scale, x.w*args.q_scale, res.head[step][1], res.tail[step][1]);
            split<traits::half>(y.x*args.q_scale, y.y*args.q_scale, res.head[step][2], res.tail[step][2]);
            split<traits::half>(y.z*args.q_scale, y.w*args.q_scale, res.head[step][3], res.tail[step][3]);
        }
    }

    // 16 cells as a lane reads them: all of it is asked for before any is used, without a branch, which would wait for what is
    // under way. In place of cells from end on and of numbers from D on others are read, whose weight is 0 or which are not written.
    struct tile {
        raw_8<T> k[2][N_STEPS]; // of the cells 8i + g/2 + 4(g%2)
        raw_8<T> v[N_SPANS][4]; // of the cells t + 4j
        int32_t  pages[2];      // of the first 8 cells and of the others: a page has at least 8

        // ahead of load(), so that it does not begin with waiting for them
        __device__ __forceinline__ void load_pages(const attn_args & args, const list_view & list, int c0, int end) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                pages[i] = page_of(args.pool, list, c0 + 8*i < end ? c0 + 8*i : end - 1);
            }
        }

        static __device__ __forceinline__ int run_of(int i0) {
            return i0 < D ? i0 : 0;
        }

        // those from c0 on
        __device__ __forceinline__ void load(const attn_args & args, int c0, int end) {
            const int g = threadIdx.x % LANES / 4;
            const int t = threadIdx.x % 4;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int    cell = c0 + 8*i + g/2 + g%2*4;
                const char * row  = k_row_of(args.pool, pages[i], cell < end ? cell : end - 1);
#pragma unroll
                for (int step = 0; step < N_STEPS; ++step) {
                    k[i][step] = load_8<T>(row, run_of(32*step + 8*t));
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int    cell = c0 + t + 4*j;
                const char * row  = v_row_of(args.pool, pages[j/2], cell < end ? cell : end - 1);
#pragma unroll
                for (int span = 0; span < N_SPANS; ++span) {
                    v[span][j] = load_8<T>(row, run_of(64*span + 8*g));
                }
            }
        }
    };

    // add 16 cells from c0 on, of which those before end count
    static __device__ __forceinline__ void add_cells(
            const attn_args & args, const queries & q, const tile & cells, int c0, int end, decode_state<D> & state) {
        const int g = threadIdx.x % LANES / 4;
        const int t = threadIdx.x % 4;

        // logits of the cells 8i + t and 8i + t + 4, in two sums each, as a product waits for the one that it adds to
        float s[2][2][4] = {};
#pragma unroll
        for (int step = 0; step < N_STEPS; ++step) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const auto k = unpack_8<T>(cells.k[i][step], tile::run_of(32*step + 8*t));
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const uint32_t a[4] = {
                        q.head[step][2*half], q.tail[step][2*half], q.head[step][2*half + 1], q.tail[step][2*half + 1] };
#pragma unroll
                    for (int p = 0; p < traits::n_parts; ++p) {
                        const uint32_t b[2] = { k.x[p][2*half], k.x[p][2*half + 1] };
                        mma<traits::half>(s[i][half], a, b);
                    }
                }
            }
        }

        float x[4]; // of the cells t + 4j
        float m = state.m;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float sum = s[j/2][0][j%2] + s[j/2][1][j%2] + (s[j/2][0][j%2 + 2] + s[j/2][1][j%2 + 2]);
            x[j] = c0 + t + 4*j < end ? soft_cap(args, sum) : -INFINITY;
            m = fmaxf(m, x[j]);
        }
        m = lane_max(m, 1, 2);

        const float scale = state.m == -INFINITY ? 0.0f : exp2_fast(state.m - m);
        state.m = m;
        if (scale != 1.0f && state.l != 0.0f) {
            state.l *= scale;
#pragma unroll
            for (int span = 0; span < N_SPANS; ++span) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        state.acc[span][j][i] *= scale;
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            x[j] = x[j] == -INFINITY ? 0.0f : exp2_fast(x[j] - m);
            state.l += x[j];
        }

        uint32_t a[4]; // weights of the cells t, t + 4 and t + 8, t + 12: heads in rows g, tails in rows g + 8
        split<traits::half>(x[0], x[1], a[0], a[1]);
        split<traits::half>(x[2], x[3], a[2], a[3]);
#pragma unroll
        for (int span = 0; span < N_SPANS; ++span) {
            words<traits::n_parts> v[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                v[j] = unpack_8<T>(cells.v[span][j], tile::run_of(64*span + 8*g));
            }
#pragma unroll
            for (int p = 0; p < traits::n_parts; ++p) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const uint32_t pick = j%2 ? 0x7632 : 0x5410; // number j of both cells
                    const uint32_t b[2] = {
                        pick_bytes(v[0].x[p][j/2], v[1].x[p][j/2], pick), pick_bytes(v[2].x[p][j/2], v[3].x[p][j/2], pick) };
                    mma<traits::half>(state.acc[span][j], a, b);
                }
            }
        }
    }

    // merge what the warps of a block have, and write the piece
    static __device__ __forceinline__ void write_piece(
            const attn_args & args, int piece, decode_state<D> & state, float (&acc)[N_WARPS][ROWS_DECODE][D],
            float2 (&sums)[N_WARPS][ROWS_DECODE]) {
        const int warp = threadIdx.x / LANES;
        const int g    = threadIdx.x % LANES / 4;
        const int t    = threadIdx.x % 4;

        state.l = lane_sum(state.l, 1, 2);
        if (t == 0) {
            sums[warp][g] = make_float2(state.m, state.l);
        }
#pragma unroll
        for (int span = 0; span < N_SPANS; ++span) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int n = 64*span + 8*(2*t + i);
                if (n < D) {
                    const float (&own)[8][4] = state.acc[span];
#pragma unroll
                    for (int j = 0; j < 8; j += 4) {
                        *(float4 *) &acc[warp][g][n + j] = make_float4(
                            own[j + 0][i] + own[j + 0][i + 2], own[j + 1][i] + own[j + 1][i + 2],
                            own[j + 2][i] + own[j + 2][i + 2], own[j + 3][i] + own[j + 3][i + 2]);
                    }
                }
            }
        }
        __syncthreads();

        for (int i = threadIdx.x; i < args.n_rows*D; i += N_WARPS*LANES) {
            const int row = i/D;
            float m = -INFINITY;
            for (int w = 0; w < N_WARPS; ++w) {
                m = fmaxf(m, sums[w][row].x);
            }
            float l = 0.0f;
            float x = 0.0f;
            for (int w = 0; w < N_WARPS; ++w) {
                const float scale = sums[w][row].x == -INFINITY ? 0.0f : exp2_fast(sums[w][row].x - m);
                l += scale*sums[w][row].y;
                x += scale*acc[w][row][i%D];
            }
            args.part_acc[(int64_t) piece*args.n_rows*D + i] = x;
            if (i%D == 0) {
                args.part_sum[piece*args.n_rows + row] = make_float2(m, l);
            }
        }
        __syncthreads();
    }

    static __device__ __forceinline__ void run(const attn_args & args) {
        __shared__ __align__(16) float acc[N_WARPS][ROWS_DECODE][D];
        __shared__ float2 sums[N_WARPS][ROWS_DECODE];

        const int lane = threadIdx.x % LANES;
        const int warp = threadIdx.x / LANES;

        const unit_split split(args);
        if ((int) blockIdx.x >= split.n_blocks) {
            return;
        }
        const int begin = split.first_of(blockIdx.x);
        const int end   = split.first_of(blockIdx.x + 1);

        int first = 0; // unit of the next 32 lists
        for (int list0 = 0; list0 < n_lists(args) && first < end; list0 += LANES) {
            const int n = list0 + lane < n_lists(args) ? n_units(args, list0 + lane) : 0;
            int next = n; // sum of this lane's and the lower ones'
            for (int step = 1; step < LANES; step *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, next, step, LANES);
                next += lane >= step ? other : 0;
            }
            // the lists of which this block has a piece
            const bool has_piece = n > 0 && first + next > begin && first + next - n < end;
            for (uint32_t left = lanes_where(has_piece); left; left &= left - 1) {
                const int i          = __ffs(left) - 1;
                const int list_end   = first + __shfl_sync(0xffffffffu, next, i, LANES);
                const int list_begin = list_end - __shfl_sync(0xffffffffu, n, i, LANES);
                const int u0 = list_begin > begin ? list_begin : begin;
                const int u1 = list_end   < end   ? list_end   : end;
                run_piece(args, list0 + i, (u0 - list_begin)*UNIT, (u1 - list_begin)*UNIT, warp, acc, sums);
                const int first_block = split.block_of(list_begin);
                const int n_pieces    = split.block_of(list_end - 1) - first_block + 1;
                if (is_last_piece(args, list0 + i, n_pieces)) {
                    merge(args, list0 + i, first_block + list0 + i, n_pieces);
                }
            }
            first += __shfl_sync(0xffffffffu, next, LANES - 1, LANES);
        }
    }

    // whether all pieces of a list are written, as the block that writes the last one finds; it sets their count to 0 again
    static __device__ __forceinline__ bool is_last_piece(const attn_args & args, int i_list, int n_pieces) {
        __shared__ bool is_last;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            is_last = n_pieces == 1 || atomicAdd(&args.n_written[i_list], 1) == n_pieces - 1;
            if (is_last) {
                args.n_written[i_list] = 0;
            }
        }
        __syncthreads();
        const bool res = is_last;
        __syncthreads();
        return res;
    }

    // merge n pieces of a list, a warp for each row
    static __device__ __forceinline__ void merge(const attn_args & args, int i_list, int first, int n) {
        constexpr int N_PARTS = (D + 127)/128; // of 4 numbers of a lane
        constexpr int AHEAD   = 16/N_PARTS;

        const int lane = threadIdx.x % LANES;
        __threadfence();
        for (int row = threadIdx.x/LANES; row < args.n_rows; row += N_WARPS) {
            const int head = list_head(args, i_list, row);
            if (head >= args.n_head) {
                continue;
            }
            const float2 * sums = args.part_sum + (int64_t) first*args.n_rows + row;
            const float  * acc  = args.part_acc + ((int64_t) first*args.n_rows + row)*D;

            const float sink = args.sinks ? args.sinks[head]*1.442695041f : -INFINITY;
            float  m = sink;
            float  l = args.sinks ? 1.0f : 0.0f;
            float4 x[N_PARTS] = {};
            for (int j0 = 0; j0 < n; j0 += LANES) {
                const float2 sum     = j0 + lane < n ? load_written(sums + (j0 + lane)*args.n_rows) : make_float2(-INFINITY, 0.0f);
                const float  before  = m;
                m = fmaxf(m, lane_max(sum.x, 1, 16));
                const float  scale   = sum.x  == -INFINITY ? 0.0f : exp2_fast(sum.x - m);
                const float  rescale = before == -INFINITY ? 0.0f : exp2_fast(before - m);
                l = l*rescale + lane_sum(scale*sum.y, 1, 16);
#pragma unroll
                for (int part = 0; part < N_PARTS; ++part) {
                    x[part] = make_float4(x[part].x*rescale, x[part].y*rescale, x[part].z*rescale, x[part].w*rescale);
                }
                // all of AHEAD pieces is asked for before any is used
                const int n_now = n - j0 < LANES ? n - j0 : LANES;
                for (int j1 = 0; j1 < n_now; j1 += AHEAD) {
                    float4 y[AHEAD][N_PARTS];
#pragma unroll
                    for (int j = 0; j < AHEAD; ++j) {
#pragma unroll
                        for (int part = 0; part < N_PARTS; ++part) {
                            const int i = 128*part + 4*lane;
                            y[j][part] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                            if (i < D && j1 + j < n_now) {
                                y[j][part] = load_written((const float4 *) (acc + (int64_t) (j0 + j1 + j)*args.n_rows*D + i));
                            }
                        }
                    }
#pragma unroll
                    for (int j = 0; j < AHEAD; ++j) {
                        const float now = __shfl_sync(0xffffffffu, scale, j1 + j, LANES);
#pragma unroll
                        for (int part = 0; part < N_PARTS; ++part) {
                            x[part].x += now*y[j][part].x;
                            x[part].y += now*y[j][part].y;
                            x[part].z += now*y[j][part].z;
                            x[part].w += now*y[j][part].w;
                        }
                    }
                }
            }
            const float scale = l > 0.0f ? 1.0f/l : 0.0f;
            float * dst = args.dst + ((int64_t) list_token(args, i_list)*args.n_head + head)*D;
#pragma unroll
            for (int part = 0; part < N_PARTS; ++part) {
                const int i = 128*part + 4*lane;
                if (i < D) {
                    *(float4 *) (dst + i) = make_float4(x[part].x*scale, x[part].y*scale, x[part].z*scale, x[part].w*scale);
                }
            }
        }
    }

    // the cells [c0, c1) of a list
    static __device__ __forceinline__ void run_piece(const attn_args & args, int i_list, int c0, int c1, int warp,
            float (&acc)[N_WARPS][ROWS_DECODE][D], float2 (&sums)[N_WARPS][ROWS_DECODE]) {
        const int  token   = list_token(args, i_list);
        const int  head_kv = list_head_kv(args, i_list);
        const auto list    = view_list(args.pool, token, head_kv);
        const int  end     = c1 < list.n_cells ? c1 : list.n_cells;

        // a block writes the new cells that it reads; others may write the same bytes
        if (args.k_new && end > list.n_old) {
            for (int i = warp; i < 2*args.n_tokens; i += N_WARPS) {
                const int other = i/2;
                const int cell  = list.n_old + args.pool.tokens[3*other + 2];
                if (args.pool.tokens[3*other] == args.pool.tokens[3*token] && cell >= c0 && cell < end) {
                    store_half_cell<T, D>(args, other, head_kv, i%2);
                }
            }
            __syncthreads();
        }

        tile cells;
        int c = c0 + 16*warp;
        cells.load_pages(args, list, c, end);
        cells.load(args, c, end);
        cells.load_pages(args, list, c + UNIT, end);

        queries q;
        load_queries(args, i_list, q);

        decode_state<D> state;
        // at least once, so that the compiler does not put off the loads until it is known that they are needed; a warp without
        // cells adds the last cell with a weight of 0
        for (;;) {
            add_cells(args, q, cells, c, end, state);
            c += UNIT;
            if (c >= end) {
                break;
            }
            cells.load(args, c, end);
            cells.load_pages(args, list, c + UNIT, end);
        }
        write_piece(args, blockIdx.x + i_list, state, acc, sums);
    }
};

template <ggml_type T, int D>
static __global__ void __launch_bounds__(N_WARPS*LANES, D <= 128 ? 2 : 1) retention_attn_decode(const attn_args args) {
    decode_kernel<T, D>::run(args);
}

} // namespace retention
