//! As much of Python's pickle as a dictionary of tensors needs, protocols 2 to 5.
//! Source: Python's `pickletools` (opcodes), torch's `torch/_utils.py` and `torch/serialization.py` at v2.6 (globals).
//!
//! A pickle is a program that can name any function. Here it can only build plain data: a handful of names are known,
//! each stands for a value of ours, and everything else is refused by name. Nothing is imported, nothing is run.

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;

/// Most bytes of a pickle: some hundred times what a published checkpoint has.
pub(super) const BYTES: usize = 32 << 20;
/// Most steps.
const STEPS: usize = 1_000_000;
/// Most values waiting for the list, tuple or dictionary they belong to.
const STACK: usize = 100_000;
/// Most lists, tuples and dictionaries open in each other.
const OPEN: usize = 256;
/// Most values that are kept to be named again.
const KEPT: usize = 500_000;
/// Longest text, in bytes.
const TEXT: usize = 1 << 16;
/// Most sizes of a tensor.
const RANK: usize = 16;
/// Most names in a message.
const NAMED: usize = 8;

/// Place of a value in [`Pickle`].
type Id = u32;

/// A finished pickle: values that name each other by number, so that no chain of them is walked by recursion.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(Vec<Id>),
    /// What is in a list is of no use here.
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(Box<View<'a>>),
}

/// The names a pickle may use.
#[derive(Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Dtype),
}

/// The numbers of one or more tensors, in a member of the archive.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The member below `data/`.
    pub key: &'a str,
    pub dtype: Dtype,
    /// How many numbers.
    pub count: i64,
}

/// A tensor as the pickle describes it: nothing in it is checked yet.
pub(super) struct View<'a> {
    pub storage: Storage<'a>,
    /// In numbers, as are the strides.
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, String> {
        let storage = |kind: &str| {
            Some(match kind {
                "Double" => Dtype::F64,
                "Float" => Dtype::F32,
                "Half" => Dtype::F16,
                "BFloat16" => Dtype::BF16,
                "Long" => Dtype::I64,
                "Int" => Dtype::I32,
                "Short" => Dtype::I16,
                "Char" => Dtype::I8,
                "Byte" => Dtype::U8,
                "Bool" => Dtype::BOOL,
                _ => return None,
            })
        };
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("torch", "Size") => Ok(Self::Size),
            ("torch", kind) => kind.strip_suffix("Storage").and_then(storage).map(Self::Storage).ok_or(()),
            _ => Err(()),
        }
        .map_err(|()| {
            format!(
                "asks for `{}.{}`, which plain tensors do not need: refused, and nothing of the file was run; where it is \
                 trusted, load it in torch and save its state dict alone",
                module.escape_debug(),
                name.escape_debug()
            )
        })
    }
}

impl<'a> Pickle<'a> {
    /// Reads a pickle.
    pub fn read(code: &'a [u8]) -> Result<Self, String> {
        if code.len() > BYTES {
            return Err(format!("is {} bytes long, more than the {BYTES} that tensors need", code.len()));
        }
        Machine { code, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }.run()
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The tensors of a dictionary by name, in its order; entries that are no tensors are left out.
    fn direct(&self, id: Id) -> Result<Vec<(&'a str, &View<'a>)>, String> {
        let Value::Dict(entries) = self.value(id) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for &(name, value) in entries {
            match (self.value(name), self.value(value)) {
                (Value::Text(name), Value::Tensor(view)) => found.push((*name, &**view)),
                (_, Value::Tensor(_)) => return Err("has a tensor whose name is no text".into()),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The tensors of the dictionary that the pickle is, or of the only one in it that holds any.
    pub fn tensors(&self) -> Result<Vec<(&'a str, &View<'a>)>, String> {
        let own = self.direct(self.root)?;
        let Value::Dict(entries) = self.value(self.root) else {
            return Err("is no dictionary of tensors; save a state dict".into());
        };
        if !own.is_empty() {
            return Ok(own);
        }
        let (mut sets, mut names, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for &(name, value) in entries {
            // (what is there under many names is looked at once)
            if let Value::Text(name) = self.value(name)
                && seen.insert(value)
            {
                let set = self.direct(value)?;
                if !set.is_empty() && sets.len() < NAMED {
                    names.push(format!("`{}`", name.escape_debug()));
                    sets.push(set);
                }
            }
        }
        match sets.len() {
            0 => Err("holds no tensors; is this a checkpoint?".into()),
            1 => Ok(sets.remove(0)),
            _ => Err(format!("holds several sets of tensors: {}; save the one that is meant alone", names.join(", "))),
        }
    }
}

struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle<'a>, String> {
        match self.take(2)? {
            [0x80, 2..=5] => {}
            [0x80, version] => return Err(format!("is of protocol {version}, expected 2 to 5")),
            _ => return Err("does not begin as a pickle does".into()),
        }
        for _ in 0..STEPS {
            let at = self.at;
            match self.byte()? {
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { values: self.values, root });
                }
                // a frame is a hint for buffered reading
                0x95 => drop(self.int(8)?),
                b'(' if self.marks.len() == OPEN => {
                    return Err(format!("opens more than {OPEN} lists or tuples in each other"));
                }
                b'(' => self.marks.push(self.stack.len()),

                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'J' => self.small(4, |n| i64::from(n as u32 as i32))?,
                b'K' => self.small(1, |n| n as i64)?,
                b'M' => self.small(2, |n| n as i64)?,
                0x8a => self.long()?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Float)?;
                }
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,

                b')' => self.push(Value::Tuple(Vec::new()))?,
                op @ 0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b']' => self.push(Value::List)?,
                b'a' => {
                    self.pop()?;
                    self.appended()?;
                }
                b'e' => {
                    self.since_mark()?;
                    self.appended()?;
                }
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b's' => {
                    let (value, name) = (self.pop()?, self.pop()?);
                    self.set(&[name, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }

                b'q' => self.keep(1)?,
                b'r' => self.keep(4)?,
                0x94 => self.keep(0)?,
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,

                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(Global::named(module, name)?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (self.value(module), self.value(name)) else {
                        return Err("names something by what is no text".into());
                    };
                    let global = Global::named(module, name)?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                b'b' => {
                    // the state of an OrderedDict: versions of modules
                    self.pop()?;
                    let Some(Value::Dict(_)) = self.top() else {
                        return Err("sets the state of something that is no dictionary".into());
                    };
                }
                other => {
                    return Err(format!(
                        "uses opcode 0x{other:02x} at byte {at}, which no dictionary of tensors needs"
                    ));
                }
            }
        }
        Err(format!("takes more than the {STEPS} steps that tensors need"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(count).and_then(|end| self.code.get(self.at..end));
        let taken = taken.ok_or("is cut off")?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of so many bytes.
    fn int(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn small(&mut self, width: usize, read: fn(u64) -> i64) -> Result<(), String> {
        let bits = self.int(width)?;
        self.push(Value::Int(read(bits)))
    }

    /// A number in as few bytes as it needs, the last of which has the sign.
    fn long(&mut self) -> Result<(), String> {
        let width = usize::from(self.byte()?);
        if width > 8 {
            return Err(format!("holds a number of {width} bytes, and sizes have 8 at most"));
        }
        let bits = self.int(width)?;
        let unused = 64 - 8 * width as u32;
        self.push(Value::Int(if width == 0 { 0 } else { (bits << unused) as i64 >> unused }))
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let size = self.int(width)?;
        if size > TEXT as u64 {
            return Err(format!("holds a text of {size} bytes, more than the {TEXT} of a name"));
        }
        let text = std::str::from_utf8(self.take(size as usize)?).map_err(|_| "holds a text that is no UTF-8")?;
        self.push(Value::Text(text))
    }

    /// A line of the text opcodes.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.code[self.at..];
        let size = rest.iter().take(TEXT).position(|&b| b == b'\n').ok_or("holds a name without an end")?;
        let line = self.take(size + 1)?;
        std::str::from_utf8(&line[..size]).map_err(|_| "holds a name that is no UTF-8".into())
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        self.values.push(value);
        self.push_again(self.values.len() as Id - 1)
    }

    fn push_again(&mut self, id: Id) -> Result<(), String> {
        if self.stack.len() == STACK {
            return Err(format!("holds more than {STACK} values that nothing takes up"));
        }
        self.stack.push(id);
        Ok(())
    }

    /// How far the stack may be taken down.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = if self.stack.len() > self.floor() { self.stack.pop() } else { None };
        id.ok_or_else(|| "takes a value where there is none".into())
    }

    fn top(&mut self) -> Option<&mut Value<'a>> {
        let id = if self.stack.len() > self.floor() { self.stack.last() } else { None };
        id.map(|&id| &mut self.values[id as usize])
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let from = self.marks.pop().ok_or("closes a list or tuple that was not opened")?;
        Ok(self.stack.split_off(from))
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn appended(&mut self) -> Result<(), String> {
        match self.top() {
            Some(Value::List) => Ok(()),
            _ => Err("appends to something that is no list".into()),
        }
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let Some(Value::Dict(entries)) = self.top() else {
            return Err("sets an entry of something that is no dictionary".into());
        };
        if !items.len().is_multiple_of(2) {
            return Err("sets an entry without a value".into());
        }
        entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    /// Keeps the value on top under a number of `width` bytes, or the next one.
    fn keep(&mut self, width: usize) -> Result<(), String> {
        let at = if width == 0 { self.memo.len() as u32 } else { self.int(width)? as u32 };
        let top = if self.stack.len() > self.floor() { self.stack.last() } else { None };
        let &id = top.ok_or("keeps a value where there is none")?;
        if self.memo.len() >= KEPT {
            return Err(format!("keeps more than {KEPT} values"));
        }
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<(), String> {
        let at = self.int(width)? as u32;
        let id = *self.memo.get(&at).ok_or_else(|| format!("recalls value {at}, which was never kept"))?;
        self.push_again(id)
    }

    /// `('storage', kind, key, device, count)` → where numbers are.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(fields) = self.value(id) else { return Err("refers to a storage by what is no tuple".into()) };
        let fields: Vec<&Value<'a>> = fields.iter().map(|&f| self.value(f)).collect();
        let [Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(count)] =
            fields[..]
        else {
            return Err("refers to a storage in a form that torch does not write".into());
        };
        let storage = Storage { key, dtype: *dtype, count: *count };
        self.push(Value::Storage(storage))
    }

    /// Calls what is known to be no more than a constructor.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), &Value::Global(global)) = (self.value(arguments), self.value(callee)) else {
            return Err("calls something that is no function".into());
        };
        let first = arguments.first().copied();
        match (global, arguments.len(), first.map(|id| self.value(id))) {
            (Global::OrderedDict, 0, _) => self.push(Value::Dict(Vec::new())),
            (Global::RebuildTensor, 6 | 7, _) => {
                let view = self.tensor(arguments)?;
                self.push(Value::Tensor(Box::new(view)))
            }
            (Global::RebuildParameter, 3, Some(Value::Tensor(_))) | (Global::Size, 1, Some(Value::Tuple(_))) => {
                first.map_or(Ok(()), |id| self.push_again(id))
            }
            (_, count, _) => Err(format!("calls a known name with {count} arguments that it does not take")),
        }
    }

    /// `(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    fn tensor(&self, arguments: &[Id]) -> Result<View<'a>, String> {
        let fields: Vec<&Value<'a>> = arguments.iter().map(|&f| self.value(f)).collect();
        let [Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..] = fields[..]
        else {
            return Err("describes a tensor in a form that torch does not write".into());
        };
        match fields.get(6) {
            None | Some(Value::None) => {}
            Some(Value::Dict(entries)) if entries.is_empty() => {}
            _ => return Err("has a tensor that is stored conjugated or negated; save a plain copy of it".into()),
        }
        if shape.len() > RANK || strides.len() != shape.len() {
            return Err(format!(
                "has a tensor of {} sizes and {} strides, at most {RANK} each",
                shape.len(),
                strides.len()
            ));
        }
        let sizes = |ids: &[Id]| {
            let int = |&id: &Id| if let Value::Int(n) = self.value(id) { Some(*n) } else { None };
            ids.iter().map(int).collect::<Option<Vec<i64>>>().ok_or("has a tensor whose sizes are no numbers")
        };
        Ok(View { storage: *storage, offset: *offset, shape: sizes(shape)?, strides: sizes(strides)? })
    }
}
