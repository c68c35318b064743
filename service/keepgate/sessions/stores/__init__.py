"""Where sessions outlive the process."""
from keepgate.sessions.stores.base import *
from keepgate.sessions.stores.base import Refusal, Held, META
class Memory:
    shared=False
    def __init__(self): self.d={}
    def commit(self, changes):
        out={}
        for c in changes:
            if c.create and c.session_id not in self.d: self.d[c.session_id]=[c.epoch,0,{},""]
            row=self.d.get(c.session_id)
            if row is None or row[0]!=c.epoch: out[c.session_id]=Refusal.FENCED; continue
            row[1]=c.position
            for k in c.delete: row[2].pop(k,None)
            row[2].update(c.put)
            if c.ended: row[2]={}; row[3]=c.ended
        return out
    def held(self): return iter(())
    def load(self,i):
        r=self.d.get(i); return Held(i,r[0],r[1],dict(r[2]),r[3]) if r else None
    claim=load
    def beat(self): pass
    def describe(self): return "memory"
    def close(self): pass
def open_store(url, **k): return Memory()
def spill_store(): return Memory()
