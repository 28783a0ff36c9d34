#include "engine/ops/convert.h"

namespace engine::ops {

void convert(const Convert& a) {
  ENSURE(a.x_TD.num_elements() == a.y_TD.num_elements() && a.x_TD.is_contiguous() && a.y_TD.is_contiguous(), "x has ",
         a.x_TD.num_elements(), " elements and y ", a.y_TD.num_elements(),
         " but both must be contiguous and of one shape");
  DISPATCH(a.x_TD.device, convert, a);
}

}  // namespace engine::ops
