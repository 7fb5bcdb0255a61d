/* A GPU that computes nothing.

   As much of CUDA's runtime, driver, cuBLAS and cuDNN as ONNX Runtime's own CUDA provider needs to load,
   place nodes, allocate, copy, capture and replay on a machine without a GPU. Device memory is
   host memory; kernels are counted and not run, so outputs keep what the memory held. What is not
   defined here is stubbed by tests/support/standin/__init__.py as a function that returns 0.

   STANDIN_MEMORY  bytes of device memory, beyond which cudaMalloc fails as a full GPU's does
   STANDIN_DRIVER  the CUDA version of the driver, 13000 by default
   STANDIN_GPUS    how many GPUs it counts, 1 by default
   STANDIN_LOG     a file that gets a line for each graph captured or launched, each copy in,
                  and each time a thread turns to a device
*/
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

static void logged(const char *format, ...) {
  const char *path = getenv("STANDIN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fclose(file);
}

#ifdef CUDART
/* Each allocation carries its size before it; 256 bytes keep CUDA's alignment. */
static long used;
static int capturing, kernels, graphs;

int cudaMalloc(void **pointer, size_t size) {
  if (used + (long)size > setting("STANDIN_MEMORY", 8L << 30)) return 2; /* out of memory */
  char *block = aligned_alloc(256, (size + 511) / 256 * 256);
  if (!block) return 2;
  *(size_t *)block = size;
  memset(block + 256, 0, size);
  used += size;
  *pointer = block + 256;
  return 0;
}
int cudaFree(void *pointer) {
  if (!pointer) return 0;
  char *block = (char *)pointer - 256;
  used -= *(size_t *)block;
  free(block);
  return 0;
}
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return cudaMalloc(p, n); }
int cudaFreeAsync(void *p, void *stream) { return cudaFree(p); }
int cudaMallocHost(void **p, size_t n) { return (*p = malloc(n)) ? 0 : 2; }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return (*p = malloc(n)) ? 0 : 2; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) {
  *total = setting("STANDIN_MEMORY", 8L << 30);
  *available = *total - used;
  return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  if (kind == 1) logged("copy %zu\n", size);
  memcpy(to, from, size);
  return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  memcpy(to, from, size);
  return 0;
}
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) {
  memset(to, value, size);
  return 0;
}

static _Thread_local int current;
int cudaSetDevice(int device) {
  logged("device %d\n", device);
  current = device;
  return 0;
}
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaGetDeviceCount(int *count) { *count = setting("STANDIN_GPUS", 1); return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = setting("STANDIN_DRIVER", 13000); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : 1024;
  return 0;
}
/* Offsets of CUDA 13's cudaDeviceProp. */
int cudaGetDeviceProperties(void *properties, int device) {
  char *p = properties;
  memset(p, 0, 1008);
  strcpy(p, "Stand-in GPU");
  *(size_t *)(p + 288) = setting("STANDIN_MEMORY", 8L << 30); /* totalGlobalMem */
  *(size_t *)(p + 296) = 48 << 10;                            /* sharedMemPerBlock */
  *(int *)(p + 304) = 65536;                                  /* regsPerBlock */
  *(int *)(p + 308) = 32;                                     /* warpSize */
  *(int *)(p + 320) = 1024;                                   /* maxThreadsPerBlock */
  for (int i = 0; i < 3; i++) ((int *)(p + 324))[i] = 1024;   /* maxThreadsDim */
  for (int i = 0; i < 3; i++) ((int *)(p + 336))[i] = 65535;  /* maxGridSize */
  *(int *)(p + 360) = 9;                                      /* major */
  *(int *)(p + 384) = 132;                                    /* multiProcessorCount */
  *(int *)(p + 604) = 2048;                                   /* maxThreadsPerMultiProcessor */
  *(size_t *)(p + 624) = 228 << 10;                           /* sharedMemPerMultiprocessor */
  *(size_t *)(p + 672) = 227 << 10;                           /* sharedMemPerBlockOptin */
  return 0;
}
int cudaFuncGetAttributes(void *attributes, const void *function) {
  memset(attributes, 0, 64);
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *function, int size, size_t shared, unsigned flags) {
  *blocks = 1;
  return 0;
}
static int nothing(void) { return 0; }
int cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags, int *found) {
  *function = (void *)nothing;
  if (found) *found = 0;
  return 0;
}
const char *cudaGetErrorName(int error) {
  return error == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}
const char *cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "unknown error"; }

static void *handle(void) { return calloc(1, 64); }
int cudaStreamCreate(void **stream) { *stream = handle(); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = handle(); return 0; }
int cudaEventCreate(void **event) { *event = handle(); return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = handle(); return 0; }
int cudaEventElapsedTime(float *milliseconds, void *start, void *stop) {
  *milliseconds = 1;
  return 0;
}
void **__cudaRegisterFatBinary(void *binary) { return handle(); }
int cudaLaunchKernel(void) { kernels++; return 0; }
int __cudaLaunchKernel(void) { kernels++; return 0; }
int cudaLaunchKernelExC(void) { kernels++; return 0; }
int cudaLaunchCooperativeKernel(void) { kernels++; return 0; }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
  function(data);
  return 0;
}

/* A graph is its number. */
int cudaStreamBeginCapture(void *stream, int mode) {
  capturing = 1;
  kernels = 0;
  return 0;
}
int cudaStreamIsCapturing(void *stream, int *status) { *status = capturing; return 0; }
int cudaStreamEndCapture(void *stream, void **graph) {
  capturing = 0;
  *graph = (void *)(long)++graphs;
  logged("capture %d kernels %d\n", graphs, kernels);
  return 0;
}
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
  *executable = graph;
  return 0;
}
int cudaGraphLaunch(void *executable, void *stream) {
  logged("launch %ld\n", (long)executable);
  return 0;
}
#endif

#ifdef CUBLAS
static void *handle(void) { return calloc(1, 64); }
int cublasCreate_v2(void **cublas) { *cublas = handle(); return 0; }
int cublasGetMathMode(void *cublas, int *mode) { *mode = 0; return 0; }
const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_STANDIN"; }
const char *cublasGetStatusString(int status) { return "stand-in"; }
#endif

#ifdef CUBLASLT
static void *handle(void) { return calloc(1, 64); }
int cublasLtCreate(void **handle_) { *handle_ = handle(); return 0; }
int cublasLtMatmulDescCreate(void **d) { *d = handle(); return 0; }
int cublasLtMatmulPreferenceCreate(void **d) { *d = handle(); return 0; }
int cublasLtMatrixLayoutCreate(void **d) { *d = handle(); return 0; }
int cublasLtMatrixTransformDescCreate(void **d) { *d = handle(); return 0; }
int cublasLtMatmulAlgoGetHeuristic(
    void *cublas, void *operation, void *a, void *b, void *c, void *d, void *preference, int most,
    void *results, int *found) {
  memset(results, 0, 96); /* cublasLtMatmulHeuristicResult_t: an algorithm that needs nothing */
  *found = 1;
  return 0;
}
#endif

#ifdef DRIVER
int cuInit(unsigned flags) { return setting("STANDIN_GPUS", 1) ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = setting("STANDIN_DRIVER", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = setting("STANDIN_GPUS", 1); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, size, "Stand-in GPU");
  return 0;
}
int cuDeviceTotalMem_v2(size_t *size, int device) {
  *size = setting("STANDIN_MEMORY", 8L << 30);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
int cuGetErrorString(int status, const char **text) {
  *text = status == 100 ? "no CUDA-capable device is detected" : "unknown error";
  return 0;
}
#endif

#ifdef CUDNN
size_t cudnnGetVersion(void) { return 91900; }
int cudnnCreate(void **handle_) { *handle_ = calloc(1, 64); return 0; }
#endif
