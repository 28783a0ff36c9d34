#include "engine/ops/adamw.h"

namespace engine::ops {
namespace {

double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2 == 1) result *= base;
  }
  return result;
}

}  // namespace

void adamw(const AdamW& a) {
  const int64_t N = a.weight_N.num_elements();
  ENSURE(a.m_N.num_elements() == N && a.v_N.num_elements() == N && a.gradient_N.num_elements() == N,
         "weight, moments and gradient have ", N, ", ", a.m_N.num_elements(), ", ", a.v_N.num_elements(), " and ",
         a.gradient_N.num_elements(), " elements");
  DISPATCH(a.weight_N.device, adamw, a);
}

BiasCorrections adamw_bias_corrections(double beta1, double beta2, int64_t step) {
  return {1 - power(beta1, step), 1 - power(beta2, step)};
}

}  // namespace engine::ops
