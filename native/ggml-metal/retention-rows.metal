// retention-rows.metal - rows of the pool on Metal: reading, writing, finding them
//
// The builder joins common.h of ggml, this file and its neighbours to one source of kernels, as ggml compiles each source on its own.

#ifndef RETENTION_CONSTANT
#define RETENTION_CONSTANT(name, index) constant int name [[function_constant(index)]]
#define RETENTION_SHARED                [[threadgroup(0)]]
#endif

// types of the pool's rows, which are set when a kernel is made
RETENTION_CONSTANT(K_TYPE, RETENTION_K_TYPE);
RETENTION_CONSTANT(V_TYPE, RETENTION_V_TYPE);

// rows of any type

constant constexpr int QUANT_CELLS = 32; // numbers in a block of q8_0 or q4_0
constant constexpr int Q8_0_BYTES  = 34; // a half, then 32 signed bytes
constant constexpr int Q4_0_BYTES  = 18; // a half, then 32 half bytes: those of the second half of the block on top

// numbers [i, i + 4) of a row
static inline float4 load4(int type, device const char * row, int i) {
    switch (type) {
        case RETENTION_F32:
            return *(device const float4 *) (row + 4*i);
        case RETENTION_F16:
            return float4(*(device const half4 *) (row + 2*i));
        case RETENTION_BF16:
            return as_type<float4>(uint4(*(device const ushort4 *) (row + 2*i)) << 16u);
        case RETENTION_Q8_0:
            {
                device const char  * block = row + (i/QUANT_CELLS)*Q8_0_BYTES;
                device const char  * q     = block + 2 + i%QUANT_CELLS;
                const float d = *(device const half *) block;
                return d*float4(q[0], q[1], q[2], q[3]);
            }
        default:
            {
                device const char  * block = row + (i/QUANT_CELLS)*Q4_0_BYTES;
                device const uchar * q     = (device const uchar *) block + 2 + i%(QUANT_CELLS/2);
                const float d     = *(device const half *) block;
                const uint  shift = i%QUANT_CELLS < QUANT_CELLS/2 ? 0 : 4;
                return d*(float4((q[0] >> shift) & 15, (q[1] >> shift) & 15, (q[2] >> shift) & 15, (q[3] >> shift) & 15) - 8.0f);
            }
    }
}

// write the numbers [i, i + 32) of a row, of n in all, in the way of ggml's own conversions
static inline void store32(int type, device char * row, device const float * src, int i, int n) {
    const int end = min(n, i + QUANT_CELLS);

    switch (type) {
        case RETENTION_F32:
            for (int j = i; j < end; ++j) {
                ((device float *) row)[j] = src[j];
            }
            break;
        case RETENTION_F16:
            for (int j = i; j < end; ++j) {
                ((device half *) row)[j] = half(src[j]);
            }
            break;
        case RETENTION_BF16:
            for (int j = i; j < end; ++j) {
                const uint bits = as_type<uint>(src[j]);
                const bool nan  = (bits & 0x7fffffffu) > 0x7f800000u;
                ((device ushort *) row)[j] = ushort(nan ? (bits >> 16u) | 64u : (bits + (0x7fffu + ((bits >> 16u) & 1u))) >> 16u);
            }
            break;
        case RETENTION_Q8_0:
            {
                float amax = 0.0f;
                for (int j = i; j < end; ++j) {
                    amax = max(amax, fabs(src[j]));
                }
                const float d  = amax/127.0f;
                const float id = d > 0.0f ? 1.0f/d : 0.0f;

                device char * block = row + (i/QUANT_CELLS)*Q8_0_BYTES;
                *(device half *) block = half(d);
                for (int j = i; j < end; ++j) {
                    block[2 + j - i] = char(int(round(src[j]*id)));
                }
            }
            break;
        default:
            {
                float amax = 0.0f;
                float most = 0.0f; // the number farthest from 0, with its sign
                for (int j = i; j < end; ++j) {
                    if (fabs(src[j]) > amax) {
                        amax = fabs(src[j]);
                        most = src[j];
                    }
                }
                const float d  = most/-8.0f;
                const float id = d != 0.0f ? 1.0f/d : 0.0f;

                device char * block = row + (i/QUANT_CELLS)*Q4_0_BYTES;
                *(device half *) block = half(d);
                for (int j = 0; j < QUANT_CELLS/2; ++j) {
                    const int low  = min(15, int(src[i + j]*id + 8.5f));
                    const int high = min(15, int(src[i + j + QUANT_CELLS/2]*id + 8.5f));
                    ((device uchar *) block)[2 + j] = uchar(low | (high << 4));
                }
            }
            break;
    }
}

// a cell list as a token sees it

struct cells_of {
    device const int32_t * pages;
    int n_old; // cells before this ubatch
};

static inline cells_of find_cells(
        constant retention_attn_args & args,
        device const int32_t * pages,
        device const int32_t * cell_lists,
        int seq,
        int head_kv) {
    device const int32_t * list = cell_lists + 2*(seq*args.list_stride + args.list_first + head_kv);
    return { pages + list[0], list[1] };
}

static inline uint64_t k_offset(constant retention_attn_args & args, cells_of cells, int cell) {
    return (uint64_t(cells.pages[cell/args.page_size])*args.k_stride + cell%args.page_size)*args.nb_k1;
}

static inline uint64_t v_offset(constant retention_attn_args & args, cells_of cells, int cell) {
    return (uint64_t(cells.pages[cell/args.page_size])*args.v_stride + args.v_first + cell%args.page_size)*args.nb_v1;
}

// The largest logit of no cells. Not -INFINITY: the compiler takes for granted that numbers are finite.
constant constexpr float NONE = -FLT_MAX/2;

// a logit from a product of a query and a key
static inline float logit_of(constant retention_attn_args & args, float qk) {
    const float x = qk*args.scale;
    return args.softcap != 0.0f ? args.softcap*precise::tanh(x/args.softcap) : x;
}
