import torch, nnkernels, nnkernels.functional as F
from nnkernels.benchmark import best_of_rounds
d="cuda"
g=torch.randn(8,1024,2816,device=d,dtype=torch.bfloat16,requires_grad=True); u=torch.randn_like(g,requires_grad=True); go=torch.randn_like(g)
def ours(): torch.autograd.grad(F.gated(g,"silu",up=u),[g,u],go)
def theirs(): torch.autograd.grad(torch.nn.functional.silu(g)*u,[g,u],go)
for auto in (False,True):
    with torch.autocast(d,torch.bfloat16,enabled=auto):
        print("gated",auto,[round(t*1e6,1) for t in best_of_rounds([ours,theirs],30,d)])
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
m=LlamaMLP(LlamaConfig(hidden_size=1024,intermediate_size=2816)).to(d)
import copy
o=copy.deepcopy(m); nnkernels.optimize(o,always=True,verbose=False)
x=torch.randn(8,1024,1024,device=d,requires_grad=True)
def step(mod):
    ps=[x,*mod.parameters()]
    gx=torch.randn(8,1024,1024,device=d,dtype=torch.bfloat16)
    def f():
        with torch.autocast(d,torch.bfloat16): y=mod(x)
        torch.autograd.grad(y,ps,gx)
    return f
a,b=step(o),step(m)
print("mlp",[round(t*1e6,1) for t in best_of_rounds([a,b],30,d)])
for f,n in ((a,"ours"),(b,"theirs")):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        f(); torch.cuda.synchronize()
    print(n,[(e.key[:50],e.count,round(e.self_device_time_total,1)) for e in sorted(p.key_averages(),key=lambda e:-e.self_device_time_total)[:14]])
