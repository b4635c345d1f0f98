// metal-opencl.h - the words of Metal that the kernels use, declared in C++ for OpenCL
//
// Clang compiles that language everywhere, and it has Metal's address spaces, vectors and half numbers. So tests/device/metal.sh
// finds pointers into the wrong memory, missing conversions and templates that do not fit, without a Mac. Nothing here runs.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef int           int32_t;
typedef unsigned long uint64_t;

#define device      __global
#define threadgroup __local
#define constant    __constant
#define kernel

#define RETENTION_CONSTANT(name, index) __constant int name = index
#define RETENTION_SHARED
#define N_SIMDWIDTH 32

// constructors, which OpenCL has not
float4 make_float4(float);
float4 make_float4(float, float, float, float);
float4 make_float4(half4);
uint4  make_uint4(ushort4);
#define float4(...) make_float4(__VA_ARGS__)
#define uint4(...)  make_uint4(__VA_ARGS__)

template <typename T, typename U> T as_type(U u) { return __builtin_bit_cast(T, u); }

namespace precise { float tanh(float); }

namespace mem_flags { enum { mem_threadgroup }; }

void   threadgroup_barrier(int);
void   simdgroup_barrier(int);
float  simd_sum(float);
float  simd_shuffle_xor(float, ushort);
float4 simd_shuffle_xor(float4, ushort);

template <typename T> struct simdgroup_matrix { T x[2]; };
typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half>  simdgroup_half8x8;

template <typename T, int n> simdgroup_matrix<T> make_filled_simdgroup_matrix(T);

template <typename T>
void simdgroup_load(__private simdgroup_matrix<T> &, const threadgroup T *, ulong, ulong2, bool);
template <typename T>
void simdgroup_store(simdgroup_matrix<T>, threadgroup T *, ulong, ulong2, bool);
template <typename D, typename A, typename B>
void simdgroup_multiply(__private simdgroup_matrix<D> &, simdgroup_matrix<A>, simdgroup_matrix<B>);
template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(__private simdgroup_matrix<D> &, simdgroup_matrix<A>, simdgroup_matrix<B>, simdgroup_matrix<C>);
