// torch.ops.gn.eager_group_norm and eager_batch_norm: call the kernels, forward and backward, without executing Python.
//
// At small batches Python takes longer to call a layer than the layer takes to run. This file does what gn/operators.py
// does for plain tensors, with the same kernels. A backward pass that is itself differentiated or transformed calls
// gn/operators.py. Batch normalization is in extension_batch_norm.h.

#include "extension.h"
#include "extension_batch_norm.h"

namespace gn {

struct Forward {
    Tensor y, statistics;
};

Forward forward(const Tensor& input, int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                const Tensor& residual, int64_t activation) {
    const Tensor x = dense(input), added = residual.defined() ? like(residual, x) : residual;
    const Forward result{at::empty_like(x), at::empty({3, x.size(0), groups}, x.options().dtype(at::kFloat))};
    Problem problem{};
    problem.activation = activation, problem.groups = groups, problem.eps = eps;
    problem.sets = x.size(0), problem.set_samples = 1;
    problem.residual = read(added);
    problem.y = written(result.y), problem.statistics = static_cast<float*>(written(result.statistics));
    run(group_kernels, problem, x, weight, bias);
    return result;
}

Gradients backward(const Tensor& input, int64_t groups, const Tensor& weight, const Tensor& bias, const Tensor& saved,
                   int64_t activation, const Tensor& upstream, const Tensor& other, const Tensor& statistics,
                   bool needs_dx) {
    const Tensor x = dense(input);
    return gradients(x, weight, bias, saved, activation, upstream, other, statistics, needs_dx, [&](Problem& problem) {
        problem.groups = groups;
        problem.sets = x.size(0), problem.set_samples = 1;
        run(group_kernels, problem, x, weight, bias);
    });
}

// Whether the arguments are valid and plain. For all others gn/functional.py raises an error or calls gn/operators.py.
bool is_accepted(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, const Tensor& residual,
                 int64_t activation) {
    if (is_intercepted() || !are_plain(x, weight, bias, residual) || have_tangents(x, weight, bias, residual)) return false;
    if (activation < 0 || groups < 1 || x.dim() < 2) return false;
    if (x.numel() == 0 || x.numel() == groups || x.size(1) % groups) return false;
    return are_parameters(x, weight, bias) && is_addend(x, residual);
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
    static variable_list forward(AutogradContext* ctx, const Tensor& x, int64_t groups, const Given& weight,
                                 const Given& bias, double eps, const Given& residual, int64_t activation,
                                 bool return_skip) {
        const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
        const auto [y, statistics] = gn::forward(x, groups, w, b, eps, r, activation);
        ctx->set_materialize_grads(false);
        ctx->saved_data["arguments"] = std::vector<double>{double(groups), double(activation), double(r.defined()), eps};
        // As Call.saved_residual does: for a ReLU the output, which the network keeps anyway.
        ctx->save_for_backward({x, statistics, w, b, !activation || !r.defined() ? Tensor() : activation == 1 ? y : r});
        // Views, because autograd raises an error when one of several views is modified in place.
        return return_skip ? variable_list{y.alias(), y.alias()} : variable_list{y};
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        const auto saved = ctx->get_saved_variables();
        const Tensor &x = saved[0], &statistics = saved[1], &weight = saved[2], &bias = saved[3], &residual = saved[4];
        const auto arguments = ctx->saved_data["arguments"].toDoubleVector();
        const auto groups = int64_t(arguments[0]), activation = int64_t(arguments[1]);
        const double eps = arguments[3];
        const bool needs_dx = ctx->needs_input_grad(0);
        static const auto in_python =
            c10::Dispatcher::singleton()
                .findSchemaOrThrow("gn::gradients", "")
                .typed<Gradients(const Tensor&, c10::SymInt, const Given&, const Given&, double, const Given&,
                                 std::optional<std::string_view>, const Tensor&, const Tensor&, bool)>();
        const auto found = node_gradients(
            saved, upstream, arguments[2] != 0, needs_dx,
            [&](const Tensor& dy, const Tensor& other) {
                return gn::backward(x, groups, weight, bias, residual, activation, dy, other, statistics, needs_dx);
            },
            [&](const Tensor& dy) {
                return in_python.call(x, groups, given(weight), given(bias), eps, given(residual), name(activation), dy,
                                      statistics, needs_dx);
            });
        if (!found) return variable_list(8);
        const auto& [dx, dweight, dbias, dresidual] = *found;
        return {dx, Tensor(), dweight, dbias, Tensor(), dresidual, Tensor(), Tensor()};
    }
};

// Returns the output, with return_skip twice; an empty list if the arguments are not valid and plain.
variable_list eager_group_norm(const Tensor& x, int64_t groups, const Given& weight, const Given& bias, double eps,
                               const Given& residual, int64_t activation, bool return_skip) {
    const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
    if (!is_accepted(x, groups, w, b, r, activation)) return {};
    if (torch::autograd::compute_requires_grad(x, w, b, r))
        return GroupNorm::apply(x, groups, weight, bias, eps, residual, activation, return_skip);
    return variable_list(1 + return_skip, forward(x, groups, w, b, eps, r, activation).y);
}

// Accepts nothing: a tracer or a mode must see the operators of gn/operators.py, whether this file is compiled or not.
variable_list decline(const Tensor&, int64_t, const Given&, const Given&, double, const Given&, int64_t, bool) { return {}; }

}  // namespace gn

extern "C" void gn_use(int batch, int element, gn::Kernel contiguous, gn::Kernel channels_last) {
    auto& kernels = batch ? gn::batch_kernels : gn::group_kernels;
    kernels[element][0] = contiguous;
    kernels[element][1] = channels_last;
}

TORCH_LIBRARY_FRAGMENT(gn, library) {
    using c10::DispatchKey, torch::dispatch;
    library.def(
        "eager_group_norm(Tensor x, int num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? residual, "
        "int activation, bool return_skip) -> Tensor[]",
        dispatch(DispatchKey::CompositeImplicitAutograd, TORCH_FN(gn::eager_group_norm)));
    library.def(
        "eager_batch_norm(Tensor x, Tensor? running_mean, Tensor? running_var, Tensor? weight, Tensor? bias, "
        "bool training, float momentum, float eps, Tensor? residual, int activation, int ghost_batch_size, "
        "bool return_skip) -> Tensor[]",
        dispatch(DispatchKey::CompositeImplicitAutograd, TORCH_FN(gn::batch::eager_batch_norm)));
    for (const auto key : {DispatchKey::Tracer, DispatchKey::Python}) {
        library.impl("eager_group_norm", dispatch(key, TORCH_FN(gn::decline)));
        library.impl("eager_batch_norm", dispatch(key, TORCH_FN(gn::batch::decline)));
    }
}
