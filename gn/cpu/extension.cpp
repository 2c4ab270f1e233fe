// torch.ops.gn.eager_group_norm: the kernels and their gradient, called without a step through Python.
//
// At small batches a layer takes less time than Python takes to call it, forward and backward. This does what
// gn/operators.py does for a plain tensor, by the same kernels; a backward pass that is itself differentiated or
// transformed goes there.

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "problem.h"

namespace gn {

using at::Tensor;
using Given = std::optional<Tensor>;
using Kernel = void (*)(const Problem*);
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* activations[] = {nullptr, "relu", "silu", "gelu"};

// Set by extension.py, by element and by whether the channels are innermost.
Kernel kernels[3][2];

int64_t code(at::ScalarType element) {
    return element == at::kFloat ? 0 : element == at::kBFloat16 ? 1 : 2;
}

// The functions of gn/layout.py.

bool channels_innermost(const Tensor& x) {
    if (x.dim() < 3) return false;
    int64_t stride = 1;
    const auto agrees = [&](int64_t axis) {
        const bool result = x.size(axis) == 1 || x.stride(axis) == stride;
        stride *= x.size(axis);
        return result;
    };
    if (!agrees(1)) return false;
    for (int64_t axis = x.dim() - 1; axis >= 2; --axis)
        if (!agrees(axis)) return false;
    return agrees(0);
}

Tensor dense(const Tensor& x) { return x.is_contiguous() || channels_innermost(x) ? x : x.contiguous(); }

Tensor like(const Tensor& tensor, const Tensor& x) {
    return tensor.strides() == x.strides() ? tensor : at::empty_like(x, tensor.options()).copy_(tensor);
}

at::ScalarType parameter_dtype(const Tensor& weight, const Tensor& bias) {
    return weight.defined() ? weight.scalar_type() : bias.defined() ? bias.scalar_type() : at::kFloat;
}

const void* read(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
void* written(const Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }
Tensor contiguous(const Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; }

// The rest of the problem is set already.
void run(Problem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias) {
    const Tensor weights = contiguous(weight), biases = contiguous(bias);
    problem.parameter = code(parameter_dtype(weight, bias));
    problem.threads = at::get_num_threads();
    problem.samples = x.size(0), problem.channels = x.size(1);
    problem.positions = x.numel() / (problem.samples * problem.channels);
    problem.x = read(x), problem.weight = read(weights), problem.bias = read(biases);
    kernels[code(x.scalar_type())][problem.positions == 1 || !x.is_contiguous()](&problem);
}

struct Forward {
    Tensor y, statistics;
};

Forward forward(const Tensor& input, int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                const Tensor& residual, int64_t activation) {
    const Tensor x = dense(input), added = residual.defined() ? like(residual, x) : residual;
    const Forward result{at::empty_like(x), at::empty({3, x.size(0), groups}, x.options().dtype(at::kFloat))};
    Problem problem{};
    problem.activation = activation, problem.groups = groups, problem.eps = eps;
    problem.residual = read(added);
    problem.y = written(result.y), problem.statistics = static_cast<float*>(written(result.statistics));
    run(problem, x, weight, bias);
    return result;
}

// A gradient that is not asked for is not defined, or, from Python, empty.
// `other` is the gradient of the result's second use, where there is one.
Gradients backward(const Tensor& upstream, const Tensor& other, const Tensor& input, const Tensor& statistics, int64_t groups,
                   const Tensor& weight, const Tensor& bias, const Tensor& kept, int64_t activation, bool needs_dx) {
    const Tensor x = dense(input), dy = like(upstream, x);
    const Tensor other_dy = other.defined() ? like(other, x) : other, residual = kept.defined() ? like(kept, x) : kept;
    const Tensor dx = needs_dx ? at::empty_like(x) : Tensor(), dresidual = kept.defined() ? at::empty_like(x) : kept;
    const Tensor dweight = at::empty({x.size(1)}, x.options().dtype(parameter_dtype(weight, bias)));
    const Tensor dbias = at::empty_like(dweight);
    Problem problem{};
    problem.activation = activation, problem.groups = groups;
    problem.residual = read(residual);
    problem.statistics = static_cast<float*>(statistics.data_ptr());
    problem.dy = read(dy), problem.other_dy = read(other_dy);
    problem.dx = written(dx), problem.dresidual = written(dresidual);
    problem.dweight = written(dweight), problem.dbias = written(dbias);
    run(problem, x, weight, bias);
    return {dx, dweight, dbias, dresidual};
}

// Whether something transforms all tensors, or watches.
bool is_transformed() {
    return c10::impl::TorchDispatchModeTLS::any_modes_set() ||
           c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// Whether the gradient is to be differentiated, or is not plain: operators.py knows what to do.
bool is_special(const Tensor& dy, const Tensor& other, const Tensor& x) {
    return at::GradMode::is_enabled() || dy.key_set() != x.key_set() ||
           (other.defined() && other.key_set() != x.key_set()) || is_transformed();
}

// Whether there is nothing about the tensor but its elements, in this machine's memory.
bool is_plain(const Tensor& tensor) {
    using namespace c10;
    static const DispatchKeySet plain = at::empty({0}).key_set() - autograd_dispatch_keyset_with_ADInplaceOrView;
    return tensor.key_set() - autograd_dispatch_keyset_with_ADInplaceOrView == plain &&
           !torch::autograd::isFwGradDefined(tensor);
}

// Whether this is a call as most are. Of any other functional.py says what is wrong, or operators.py what to do.
bool is_ordinary(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, const Tensor& residual,
                 int64_t activation) {
    const auto element = x.scalar_type();
    if (is_transformed() || !is_plain(x) || activation < 0 || groups < 1 || x.dim() < 2) return false;
    if (x.numel() == 0 || x.numel() == groups || x.size(1) % groups) return false;
    for (const Tensor& parameter : {weight, bias})
        if (parameter.defined() &&
            !(is_plain(parameter) && parameter.dim() == 1 && parameter.size(0) == x.size(1) &&
              (parameter.scalar_type() == element || parameter.scalar_type() == at::kFloat)))
            return false;
    if (weight.defined() && bias.defined() && weight.scalar_type() != bias.scalar_type()) return false;
    return !residual.defined() ||
           (is_plain(residual) && residual.scalar_type() == element && residual.sizes() == x.sizes());
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
    static variable_list forward(AutogradContext* ctx, const Tensor& x, int64_t groups, const Given& weight,
                                 const Given& bias, double eps, const Given& residual, int64_t activation, bool fork) {
        const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
        const auto [y, statistics] = gn::forward(x, groups, w, b, eps, r, activation);
        ctx->set_materialize_grads(false);
        ctx->saved_data["arguments"] = std::vector<double>{double(groups), double(activation), double(r.defined()), eps};
        // As operators.py does: of a ReLU the result, which the network keeps anyway.
        ctx->save_for_backward({x, statistics, w, b, !activation || !r.defined() ? Tensor() : activation == 1 ? y : r});
        // Views, since autograd lets nobody change one of several views in place: the other would not know.
        return fork ? variable_list{y.alias(), y.alias()} : variable_list{y};
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        const Tensor second = upstream.size() > 1 ? upstream[1] : Tensor();
        Tensor dy = upstream[0].defined() ? upstream[0] : second, other = upstream[0].defined() ? second : Tensor();
        if (!dy.defined()) return variable_list(8);
        const auto saved = ctx->get_saved_variables();
        const Tensor &x = saved[0], &statistics = saved[1], &weight = saved[2], &bias = saved[3], &kept = saved[4];
        const auto arguments = ctx->saved_data["arguments"].toDoubleVector();
        const auto groups = int64_t(arguments[0]), activation = int64_t(arguments[1]);
        const bool has_residual = arguments[2] != 0;
        const bool needs_dx = ctx->needs_input_grad(0), special = is_special(dy, other, x);
        // Where there is no activation the gradient of the residual is the upstream one, so that is needed whole.
        if (other.defined() && (special || (has_residual && !kept.defined()))) dy = dy.add(other), other = Tensor();
        auto [dx, dweight, dbias, dresidual] =
            special ? in_python(dy, x, statistics, groups, weight, bias, arguments[3], kept,
                                activation, needs_dx)
                    : gn::backward(dy, other, x, statistics, groups, weight, bias, kept, activation, needs_dx);
        // What was not given has no gradient.
        if (!needs_dx) dx = Tensor();
        if (!weight.defined()) dweight = Tensor();
        if (!bias.defined()) dbias = Tensor();
        if (!kept.defined()) dresidual = has_residual ? dy : Tensor();
        return {dx, Tensor(), dweight, dbias, Tensor(), dresidual, Tensor(), Tensor()};
    }

    static Gradients in_python(const Tensor& dy, const Tensor& x, const Tensor& statistics, int64_t groups,
                               const Tensor& weight, const Tensor& bias, double eps, const Tensor& kept,
                               int64_t activation, bool needs_dx) {
        static const auto gradients =
            c10::Dispatcher::singleton()
                .findSchemaOrThrow("gn::gradients", "")
                .typed<Gradients(const Tensor&, const Tensor&, const Tensor&, int64_t, const Given&, const Given&,
                                 double, const Given&, std::optional<std::string_view>, bool)>();
        const auto given = [](const Tensor& tensor) { return tensor.defined() ? Given(tensor) : std::nullopt; };
        const char* const name = activations[activation];
        return gradients.call(dy, x, statistics, groups, given(weight), given(bias), eps, given(kept),
                              name ? std::optional<std::string_view>(name) : std::nullopt, needs_dx);
    }
};

// The result, twice where it forks; nothing where the call is not an ordinary one.
variable_list eager_group_norm(const Tensor& x, int64_t groups, const Given& weight, const Given& bias, double eps,
                               const Given& residual, int64_t activation, bool fork) {
    const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
    if (!is_ordinary(x, groups, w, b, r, activation)) return {};
    if (torch::autograd::compute_requires_grad(x, w, b, r))
        return GroupNorm::apply(x, groups, weight, bias, eps, residual, activation, fork);
    return variable_list(1 + fork, forward(x, groups, w, b, eps, r, activation).y);
}

}  // namespace gn

extern "C" void gn_use(int element, gn::Kernel contiguous, gn::Kernel channels_last) {
    gn::kernels[element][0] = contiguous;
    gn::kernels[element][1] = channels_last;
}

TORCH_LIBRARY_FRAGMENT(gn, library) {
    library.def(
        "eager_group_norm(Tensor x, int num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? residual, "
        "int activation, bool fork) -> Tensor[]",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(gn::eager_group_norm)));
}
