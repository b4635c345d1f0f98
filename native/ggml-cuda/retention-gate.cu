// retention-gate.cu - GGML_OP_RETENTION_GATE: the last layer of a gate, or the gates of many layers at once
//
// Whole gates are three products, of all layers together: their weights are read at the rate of the memory, where kernels
// of each layer would mostly wait for one another.

#include "retention-gate-prompt.cuh"

#include <cstring>
#include <vector>

namespace retention {

constexpr int GATE_WARPS  = 4; // of a block
constexpr int GATE_ROWS   = 4; // of the weights, for each warp
constexpr int GATE_TOKENS = 4; // that a warp multiplies its rows with at once

// numbers i0 to i0 + 7 of a row, zeros from n on
template <ggml_type T>
static __device__ __forceinline__ void load_weights(const char * row, int i0, int n, float (&res)[8]) {
    if constexpr (T == GGML_TYPE_F32) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            res[i] = i0 + i < n ? ((const float *) row)[i0 + i] : 0.0f;
        }
    } else if constexpr (T == GGML_TYPE_F16) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            res[i] = i0 + i < n ? unpack<half_type::f16>(((const uint16_t *) row)[i0 + i]).x : 0.0f;
        }
    } else {
        static_assert(T == GGML_TYPE_Q8_0, "no reader for this type");
        const float scale = unpack<half_type::f16>(load_q8_scale(row, i0)).x;
        uint32_t bytes[2];
        load_q8_bytes(row, i0, bytes);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            res[i] = scale*(float) (int8_t) (bytes[i/4] >> i%4*8 & 0xff);
        }
    }
}

// 8 numbers of a row of x, zeros from n on
static __device__ __forceinline__ void load_inputs(const float * row, int i0, int n, float (&res)[8]) {
    if (n % 8 == 0) {
        const float4 x = *(const float4 *) (row + i0);
        const float4 y = *(const float4 *) (row + i0 + 4);
        res[0] = x.x;
        res[1] = x.y;
        res[2] = x.z;
        res[3] = x.w;
        res[4] = y.x;
        res[5] = y.y;
        res[6] = y.z;
        res[7] = y.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            res[i] = i0 + i < n ? row[i0 + i] : 0.0f;
        }
    }
}

// block: (rows of the weights for each run of tokens, layer)
template <ggml_type T>
static __global__ void retention_dense(const dense_args args) {
    const dense_layer & layer = args.layers[blockIdx.y];

    const int lane   = threadIdx.x % LANES;
    const int row0   = (blockIdx.x%args.n_row_blocks*GATE_WARPS + threadIdx.x/LANES)*GATE_ROWS;
    const int token0 = blockIdx.x/args.n_row_blocks*GATE_TOKENS;

    float sum[GATE_ROWS][GATE_TOKENS] = {};
#pragma unroll 2
    for (int i0 = 8*lane; i0 < args.n_in && row0 < layer.n_out; i0 += 8*LANES) {
        float w[GATE_ROWS][8];
#pragma unroll
        for (int r = 0; r < GATE_ROWS; ++r) {
            const int row = row0 + r < layer.n_out ? row0 + r : row0; // what is beyond the last is not written
            load_weights<T>(layer.w + row*args.w_row, i0, args.n_in, w[r]);
        }
#pragma unroll
        for (int t = 0; t < GATE_TOKENS; ++t) {
            if (token0 + t < args.n_tokens) {
                float x[8];
                load_inputs(layer.x + (token0 + t)*layer.x_row, i0, args.n_in, x);
#pragma unroll
                for (int r = 0; r < GATE_ROWS; ++r) {
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        sum[r][t] += w[r][i]*x[i];
                    }
                }
            }
        }
    }
    // each lane gets one sum, so that their functions, some of them in double, are computed side by side
    static_assert(GATE_ROWS*GATE_TOKENS <= LANES, "a lane has one sum at most");
    float mine = 0.0f;
#pragma unroll
    for (int r = 0; r < GATE_ROWS; ++r) {
#pragma unroll
        for (int t = 0; t < GATE_TOKENS; ++t) {
            if (row0 + r < layer.n_out && token0 + t < args.n_tokens) {
                const float x = lane_sum(sum[r][t], 1, 16);
                mine = lane == r*GATE_TOKENS + t ? x : mine;
            }
        }
    }
    const int row   = row0 + lane/GATE_TOKENS;
    const int token = token0 + lane%GATE_TOKENS;
    if (lane < GATE_ROWS*GATE_TOKENS && row < layer.n_out && token < args.n_tokens) {
        layer.y[token*layer.y_row + row] = apply(args.fn, mine + layer.b[row]);
    }
}

static bool is_weight(const ggml_tensor * w) {
    return w->type == GGML_TYPE_F32 || w->type == GGML_TYPE_F16 || w->type == GGML_TYPE_Q8_0;
}

// with few tokens the weights are read once for all of them; with many, products on matrix units are what is fast
constexpr int MOST_FEW_TOKENS = 8;

template <ggml_type T>
static void launch(dense_args & args, int n_layers, bool is_many, cudaStream_t stream) {
    using prompt = dense_prompt<T>;
    const auto ceil_div = [](int x, int by) { return (x + by - 1)/by; };

    int n_out = 0;
    for (int i = 0; i < n_layers; ++i) {
        n_out = args.layers[i].n_out > n_out ? args.layers[i].n_out : n_out;
    }
    args.n_row_blocks = ceil_div(n_out, is_many ? prompt::ROWS : GATE_WARPS*GATE_ROWS);
    const dim3 grid(args.n_row_blocks*ceil_div(args.n_tokens, is_many ? prompt::TOKENS : GATE_TOKENS), n_layers);
    if (is_many) {
        RETENTION_LAUNCH((retention_dense_prompt<T>), grid, dim3(prompt::WARPS*LANES), 0, stream, args);
    } else {
        RETENTION_LAUNCH((retention_dense<T>), grid, dim3(GATE_WARPS*LANES), 0, stream, args);
    }
}

// one product of all gates of a chain
static void run_dense(const std::vector<dense_layer> & layers, const ggml_tensor * w, int n_tokens, dense_fn fn, cudaStream_t stream) {
    // the last product of a gate has few rows, and its results are logarithms of numbers near 1: it is computed in f32
    const bool is_many = n_tokens > MOST_FEW_TOKENS && fn != dense_fn::logsigmoid && fn != dense_fn::none;
    for (size_t first = 0; first < layers.size(); first += GATE_LAYERS) {
        dense_args args = {};
        args.n_in     = w->ne[0];
        args.n_tokens = n_tokens;
        args.w_row    = w->nb[1];
        args.fn       = fn;
        const size_t n = layers.size() - first < GATE_LAYERS ? layers.size() - first : GATE_LAYERS;
        memcpy(args.layers, layers.data() + first, n*sizeof(dense_layer));
        switch (w->type) {
            case GGML_TYPE_F32:  launch<GGML_TYPE_F32> (args, n, is_many, stream); break;
            case GGML_TYPE_F16:  launch<GGML_TYPE_F16> (args, n, is_many, stream); break;
            case GGML_TYPE_Q8_0: launch<GGML_TYPE_Q8_0>(args, n, is_many, stream); break;
            default:             GGML_ABORT("gate_supported() refuses this type");
        }
    }
}

static ggml_retention_gate_params gate_params(const ggml_tensor * dst) {
    ggml_retention_gate_params res;
    memcpy(&res, dst->op_params, sizeof(res));
    return res;
}

static dense_fn output_fn(const ggml_tensor * dst) {
    return gate_params(dst).output == GGML_RETENTION_GATE_SCORE ? dense_fn::none : dense_fn::logsigmoid;
}

static dense_layer make_layer(const float * x, int64_t x_row, const ggml_tensor * w, const ggml_tensor * b, float * y, int64_t y_row) {
    return { x, (const char *) w->data, (const float *) b->data, y, x_row, y_row, (int32_t) w->ne[1] };
}

bool gate_supported(const ggml_tensor * dst, bool has_bf16_units) {
    const ggml_tensor * in  = dst->src[4];
    const ggml_tensor * mid = dst->src[6];
    // whole gates of many tokens: their rows are read 8 numbers at a time
    if (in && dst->ne[1] > MOST_FEW_TOKENS && (!has_bf16_units || in->ne[0] % 8 != 0 || in->ne[1] % 8 != 0)) {
        return false;
    }
    return is_weight(dst->src[1]) && (!in || is_weight(in)) && (!mid || is_weight(mid));
}

static std::vector<const ggml_tensor *> chain_of(const ggml_tensor * last) {
    std::vector<const ggml_tensor *> res;
    for (const ggml_tensor * gate = last; gate; gate = gate->src[8]) {
        res.push_back(gate);
    }
    return res;
}

size_t gate_scratch_bytes(const ggml_tensor * dst) {
    const ggml_tensor * in = dst->src[4];
    return in && gate_params(dst).is_last ? 2*chain_of(dst).size()*in->ne[1]*dst->ne[1]*sizeof(float) : 0;
}

void gate_run(ggml_tensor * dst, void * scratch, cudaStream_t stream) {
    const ggml_tensor * in       = dst->src[4];
    const int           n_tokens = dst->ne[1];
    if (!in) {
        const ggml_tensor * a = dst->src[0];
        run_dense({ make_layer((const float *) a->data, a->nb[1]/sizeof(float), dst->src[1], dst->src[2], (float *) dst->data,
                        dst->nb[1]/sizeof(float)) }, dst->src[1], n_tokens, output_fn(dst), stream);
        return;
    }
    if (!gate_params(dst).is_last) {
        return;
    }

    const auto    gates = chain_of(dst);
    const int64_t n_ff  = in->ne[1];
    float * hidden[2] = { (float *) scratch, (float *) scratch + gates.size()*n_ff*n_tokens };

    std::vector<dense_layer> layers;
    for (size_t i = 0; i < gates.size(); ++i) {
        const ggml_tensor * h = gates[i]->src[0];
        layers.push_back(make_layer((const float *) h->data, h->nb[1]/sizeof(float), gates[i]->src[4], gates[i]->src[5],
                    hidden[0] + i*n_ff*n_tokens, n_ff));
    }
    const auto activation = (dense_fn) gate_params(dst).activation; // the same numbers
    run_dense(layers, in, n_tokens, activation, stream);

    float * last = hidden[0];
    if (const ggml_tensor * mid = dst->src[6]) {
        layers.clear();
        for (size_t i = 0; i < gates.size(); ++i) {
            layers.push_back(make_layer(hidden[0] + i*n_ff*n_tokens, n_ff, gates[i]->src[6], gates[i]->src[7],
                        hidden[1] + i*n_ff*n_tokens, n_ff));
        }
        run_dense(layers, mid, n_tokens, activation, stream);
        last = hidden[1];
    }

    layers.clear();
    for (size_t i = 0; i < gates.size(); ++i) {
        layers.push_back(make_layer(last + i*n_ff*n_tokens, n_ff, gates[i]->src[1], gates[i]->src[2], (float *) gates[i]->data,
                    gates[i]->nb[1]/sizeof(float)));
    }
    run_dense(layers, dst->src[1], n_tokens, output_fn(dst), stream);
}

} // namespace retention
