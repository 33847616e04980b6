/* Answers the CPUID instruction without VNNI (and, with HIDE=avx512, without AVX-512).
 *
 * Loaded with LD_PRELOAD beside copies of the runtimes' libraries in which every `cpuid` was
 * replaced by a breakpoint (`benchmarks/without_vnni.py`). The runtimes then choose the kernels
 * of a processor that has no VNNI, and run them at this processor's full speed. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static int without_avx512;

static void answer(int signal, siginfo_t *info, void *context) {
  greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned leaf = regs[REG_RAX], subleaf = regs[REG_RCX], a, b, c, d;
  (void)signal, (void)info;
  __cpuid_count(leaf, subleaf, a, b, c, d);
  if (leaf == 7 && subleaf == 0) {
    c &= ~BIT(11);                           /* AVX512_VNNI */
    d &= ~(BIT(22) | BIT(24) | BIT(25));     /* AMX-BF16, AMX-TILE, AMX-INT8 */
    if (without_avx512) {
      b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
      c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
      d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
    }
  }
  if (leaf == 7 && subleaf == 1) {
    a &= ~BIT(4);                            /* AVX-VNNI */
    d &= ~(BIT(4) | BIT(10));                /* AVX-VNNI-INT8, AVX-VNNI-INT16 */
    if (without_avx512) a &= ~BIT(5);
  }
  regs[REG_RAX] = a, regs[REG_RBX] = b, regs[REG_RCX] = c, regs[REG_RDX] = d;
  regs[REG_RIP] += 1; /* behind the breakpoint stands the second byte of `cpuid`, now a nop */
}

__attribute__((constructor(101))) static void start(void) {
  const char *hide = getenv("HIDE");
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  without_avx512 = hide && !strcmp(hide, "avx512");
  sigaction(SIGTRAP, &action, 0);
}
