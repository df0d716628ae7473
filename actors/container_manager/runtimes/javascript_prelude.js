// The world of a JavaScript service: its globals, `context`, `request` and `response`.
//
// Evaluated once, before the service's own code; the result is `turn(text)`, which the worker calls for each event of a
// call (it begins, an answer of `context.http` arrives, time passes) and which answers with an outbox: what the service
// logged, asked for and replied in that turn. Both are JSON. The memory is photographed after the service's code was
// evaluated and put back before each call, so nothing but `context.storage` outlives a call.
//
// What this file keeps of the engine is taken before the service runs. A service that bends its own globals harms
// itself: the worker believes nothing in an outbox.
(function () {
  'use strict';
  const host = globalThis.__atoll_host;
  const limits = JSON.parse(globalThis.__atoll_limits);
  delete globalThis.__atoll_host;
  delete globalThis.__atoll_limits;
  const { parse, stringify } = JSON;
  const { freeze, assign, entries } = Object;

  let out; // the outbox of this turn
  let call = null; // the call in hand; one per life of this memory
  let nextId = 1;
  const immediates = new Map();
  const timers = new Map();
  const asks = new Map();
  let now = 0;

  function emptyOutbox() {
    out = { logs: [], dropped: 0, asks: [], reply: null, thrown: null };
  }
  emptyOutbox();

  // --- console -------------------------------------------------------------------------------------------------
  function show(value) {
    if (typeof value === 'string') return value;
    if (value instanceof Error) return `${value.name}: ${value.message}\n${value.stack || ''}`;
    try {
      const text = typeof value === 'object' && value !== null ? stringify(value) : undefined;
      return text === undefined ? String(value) : text;
    } catch (error) {
      return '[cannot be shown]';
    }
  }
  function logTo(stream) {
    return function (...values) {
      if (out.logs.length >= limits.log_lines) {
        out.dropped += 1;
        return;
      }
      let text = values.map(show).join(' ');
      if (text.length > limits.log_characters) text = text.slice(0, limits.log_characters - 1) + '…';
      out.logs.push([stream, text.toWellFormed()]);
    };
  }
  const toOut = logTo('stdout');
  const toErr = logTo('stderr');
  const console = { log: toOut, info: toOut, debug: toOut, trace: toOut, warn: toErr, error: toErr };

  function describe(error) {
    if (error === null) return 'null; the engine throws it, too, when the memory is used up';
    try {
      if (error instanceof Error) return `${error.name}: ${error.message}\n${error.stack || ''}`.slice(0, 4000);
      return show(error).slice(0, 4000);
    } catch (again) {
      return 'an error that cannot be shown';
    }
  }
  function threw(error) {
    const text = describe(error).toWellFormed();
    if (out.thrown === null) out.thrown = text;
    toErr(text);
  }

  // --- text and bytes ------------------------------------------------------------------------------------------
  function utf8(text) {
    const safe = String(text).toWellFormed();
    const bytes = [];
    for (const character of safe) {
      const c = character.codePointAt(0);
      if (c < 0x80) bytes.push(c);
      else if (c < 0x800) bytes.push(0xc0 | (c >> 6), 0x80 | (c & 63));
      else if (c < 0x10000) bytes.push(0xe0 | (c >> 12), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
      else bytes.push(0xf0 | (c >> 18), 0x80 | ((c >> 12) & 63), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
    }
    return new Uint8Array(bytes);
  }
  function asBytes(value) {
    if (value instanceof Uint8Array) return value;
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    return utf8(value);
  }
  // WHATWG's decoder: what is no UTF-8 becomes U+FFFD, one for each maximal wrong part; `fatal` throws instead.
  function fromUtf8(bytes, fatal) {
    let text = '';
    const bad = () => {
      if (fatal) throw new TypeError('the bytes are not UTF-8');
      text += '\ufffd';
    };
    for (let i = 0; i < bytes.length; ) {
      const first = bytes[i++];
      if (first < 0x80) {
        text += String.fromCharCode(first);
        continue;
      }
      let more = first >= 0xc2 && first <= 0xdf ? 1 : (first & 0xf0) === 0xe0 ? 2 : first >= 0xf0 && first <= 0xf4 ? 3 : 0;
      if (more === 0) {
        bad();
        continue;
      }
      let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
      let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
      let point = first & (0x3f >> more);
      for (; more > 0 && bytes[i] >= low && bytes[i] <= high; more--, low = 0x80, high = 0xbf)
        point = (point << 6) | (bytes[i++] & 63);
      if (more > 0) bad();
      else text += String.fromCodePoint(point);
    }
    return text;
  }
  class TextEncoder {
    get encoding() {
      return 'utf-8';
    }
    encode(text = '') {
      return utf8(text);
    }
  }
  class TextDecoder {
    constructor(label = 'utf-8', options = {}) {
      if (!/^utf-?8$/i.test(String(label).trim())) throw new RangeError(`TextDecoder knows utf-8 only, not ${label}`);
      this.fatal = Boolean(options.fatal);
      this.ignoreBOM = Boolean(options.ignoreBOM);
    }
    get encoding() {
      return 'utf-8';
    }
    decode(bytes = new Uint8Array(0)) {
      const text = fromUtf8(asBytes(bytes), this.fatal);
      return !this.ignoreBOM && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
    }
  }

  const HEX = '0123456789abcdef';
  function binary(bytes) {
    let text = '';
    for (const byte of bytes) text += String.fromCharCode(byte);
    return text;
  }
  const encoders = {
    base64: (bytes) => btoa(binary(bytes)),
    hex: (bytes) => {
      let text = '';
      for (const byte of bytes) text += HEX[byte >> 4] + HEX[byte & 15];
      return text;
    },
  };
  const decoders = {
    base64: (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0)),
    hex: (text) => {
      if (text.length % 2 || /[^0-9a-fA-F]/.test(text)) throw new TypeError('Duktape.dec: this is no hex text');
      return Uint8Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16));
    },
  };
  function codec(table, format) {
    if (!Object.hasOwn(table, format)) throw new TypeError(`Duktape knows base64 and hex, not ${format}`);
    return table[format];
  }
  // Existing services use what `dec` gives both as bytes and as text.
  function readable(bytes) {
    Object.defineProperty(bytes, 'toString', { value: () => fromUtf8(bytes, false) });
    return bytes;
  }
  const Duktape = {
    version: 20600,
    env: 'atoll quickjs-ng',
    enc: (format, value) => codec(encoders, format)(asBytes(value)),
    dec: (format, text) => readable(codec(decoders, format)(String(text))),
  };

  // --- immediates and timers -----------------------------------------------------------------------------------
  function needFunction(callback, name) {
    if (typeof callback !== 'function') throw new TypeError(`${name} takes a function`);
    if (immediates.size + timers.size >= limits.timers) throw new RangeError(`${limits.timers} timers wait already`);
  }
  function setImmediate(callback, ...values) {
    needFunction(callback, 'setImmediate');
    immediates.set(nextId, () => callback(...values));
    return nextId++;
  }
  function clearImmediate(id) {
    immediates.delete(id);
  }
  function timer(callback, delay, values, repeat) {
    needFunction(callback, repeat ? 'setInterval' : 'setTimeout');
    const wait = Math.max(1, Number(delay) || 0);
    timers.set(nextId, { at: now + wait, every: repeat ? wait : 0, run: () => callback(...values) });
    return nextId++;
  }
  const setTimeout = (callback, delay, ...values) => timer(callback, delay, values, false);
  const setInterval = (callback, delay, ...values) => timer(callback, delay, values, true);
  const clearTimeout = (id) => void timers.delete(id);

  function guarded(run) {
    try {
      run();
    } catch (error) {
      threw(error);
    }
  }
  function runDue() {
    const ready = [...immediates];
    for (const [id, run] of ready) if (immediates.delete(id)) guarded(run);
    const due = [...timers].filter(([, each]) => each.at <= now).sort((a, b) => a[1].at - b[1].at);
    for (const [id, each] of due) {
      if (!timers.has(id)) continue;
      if (each.every) each.at = now + each.every;
      else timers.delete(id);
      guarded(each.run);
    }
  }

  // --- randomness: the engine's own was photographed with the rest, and would repeat in every call -----------------
  let seed = [1, 2, 3, 4];
  function next32() {
    // xoshiro128**; Blackman and Vigna, 2018
    const [a, b, c, d] = seed;
    const spun = Math.imul(b, 5);
    const result = Math.imul((spun << 7) | (spun >>> 25), 9) >>> 0;
    const shifted = b << 9;
    const c1 = c ^ a;
    const d1 = d ^ b;
    seed = [a ^ d1, b ^ c1, c1 ^ shifted, (d1 << 11) | (d1 >>> 21)];
    return result;
  }
  Math.random = function random() {
    return ((next32() >>> 5) * 67108864 + (next32() >>> 6)) / 9007199254740992;
  };

  // --- context -------------------------------------------------------------------------------------------------
  function ask(operation, a = '', b = '', c = '') {
    if (call === null) throw new Error('context is there during a call only');
    // One text instead of four: each argument costs the sandbox about 0.2 ms.
    const answer = host(stringify([operation, wellFormed(a), wellFormed(b), wellFormed(c)]));
    if (answer[0] === '!') throw new Error(answer.slice(1));
    return answer[0] === '-' ? null : answer.slice(1);
  }
  function wellFormed(value) {
    return String(value).toWellFormed();
  }
  function each(callback, tag, tagged) {
    if (typeof callback !== 'function') throw new TypeError('this takes a function (key, value)');
    for (let after = null; ; ) {
      const batch = parse(ask('batch', after === null ? '-' : '=' + after, tagged ? '=' + tag : '-'));
      for (const [key, value] of batch) callback(key, value);
      if (batch.length === 0) return;
      after = batch[batch.length - 1][0];
    }
  }
  function later(name) {
    return function () {
      throw new Error(`${name} is not there yet in this version of the node`);
    };
  }
  const storage = freeze({
    getItem: (key) => ask('get', key),
    setItem: (key, value) => void ask('put', key, value),
    removeItem: (key) => void ask('remove', key),
    eachItem: (callback) => each(callback, '', false),
    setItemWithTag: (key, value, tag) => void ask('put_tagged', key, value, tag),
    eachItemByTag: (tag, callback) => each(callback, String(tag), true),
    removeItemsByTag: (tag) => void ask('remove_tag', tag),
    saveFile: later('context.storage.saveFile'),
    deleteFile: later('context.storage.deleteFile'),
  });

  function startAsk(request, done) {
    if (asks.size >= limits.asks) throw new RangeError(`${limits.asks} HTTP requests are under way already`);
    const { method, url, headers, body } = request;
    if (method.length > limits.method_characters) throw new TypeError('that is too long for a method');
    if (url.length > limits.url_characters) throw new RangeError(`a url may have ${limits.url_characters} characters`);
    if (headers.length > limits.headers) throw new RangeError(`a request may have ${limits.headers} headers`);
    for (const field of headers) checkLength(field);
    if (body.length > limits.reply_characters) throw new RangeError(`a body may have ${limits.reply_characters} bytes`);
    const token = nextId++;
    out.asks.push({ token, method: wellFormed(method), url: wellFormed(url), headers, body: wellFormed(body) });
    asks.set(token, done);
  }
  function checkLength([name, value]) {
    if (name.length > limits.header_characters || value.length > limits.header_characters)
      throw new RangeError(`a header may have ${limits.header_characters} characters`);
  }
  const http = freeze({
    request(options) {
      const { url, type = 'GET', data, headers = {}, authorization, success, error } = options || {};
      if (typeof url !== 'string') throw new TypeError('context.http.request needs a url');
      for (const name of ['outputFile']) {
        if (options[name] !== undefined) throw new Error(`context.http.request: ${name} is not there yet`);
      }
      const fields = entries(headers).map(([name, value]) => [wellFormed(name).toLowerCase(), wellFormed(value)]);
      if (authorization !== undefined) fields.push(['authorization', wellFormed(authorization)]);
      const body = data === undefined || data === null ? '' : typeof data === 'string' ? data : stringify(data);
      startAsk({ method: String(type).toUpperCase(), url, headers: fields, body }, (answer) => {
        const received = Object.fromEntries(answer.headers);
        if (answer.error) {
          if (error) error({ message: answer.error, status: 0, content: '', headers: {} });
        } else if (answer.status >= 400) {
          const message = `the server answered ${answer.status}`;
          if (error) error({ message, status: answer.status, content: answer.body, headers: received });
        } else if (success) {
          success({ data: answer.body, headers: received, status: answer.status });
        }
      });
    },
  });
  function fetch(url, options = {}) {
    return new Promise((resolve, reject) => {
      const fields = entries(options.headers || {}).map(([name, value]) => [wellFormed(name).toLowerCase(), wellFormed(value)]);
      const body = options.body === undefined || options.body === null ? '' : String(options.body);
      const method = String(options.method || 'GET').toUpperCase();
      startAsk({ method, url: String(url), headers: fields, body }, (answer) => {
        if (answer.error) return reject(new TypeError(answer.error));
        const held = new Map(answer.headers);
        resolve({
          status: answer.status,
          ok: answer.status >= 200 && answer.status < 300,
          url: String(url),
          headers: { get: (name) => held.get(String(name).toLowerCase()) ?? null },
          text: async () => answer.body,
          json: async () => parse(answer.body),
        });
      });
    });
  }

  // --- request and response ------------------------------------------------------------------------------------
  const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
  function makeResponse() {
    const fields = [];
    const parts = [];
    let length = 0;
    let ended = false;
    function add(chunk) {
      if (ended) throw new Error('the response has ended already');
      if (chunk === undefined || chunk === null) return;
      const bytes = chunk instanceof ArrayBuffer || ArrayBuffer.isView(chunk);
      if (typeof chunk === 'object' && !bytes) throw new TypeError('response takes text or bytes: use JSON.stringify');
      const part = bytes ? asBytes(chunk) : String(chunk);
      length += part.length;
      if (length > limits.reply_characters) throw new RangeError(`a reply may have ${limits.reply_characters} bytes`);
      parts.push(part);
    }
    return {
      statusCode: 200,
      setHeader(name, value) {
        const text = String(value);
        if (!TOKEN.test(String(name))) throw new TypeError(`${show(name)} cannot be the name of a header`);
        if (/[^\t\x20-\x7e\x80-\xff]/.test(text)) throw new TypeError(`the header ${name} holds characters it must not`);
        const lower = String(name).toLowerCase();
        checkLength([lower, text]);
        const at = fields.findIndex(([each]) => each === lower);
        if (at >= 0 && lower !== 'set-cookie') fields[at][1] = text;
        else if (fields.length >= limits.headers) throw new RangeError(`a reply may have ${limits.headers} headers`);
        else fields.push([lower, text]);
      },
      write(chunk) {
        add(chunk);
      },
      end(chunk) {
        const status = Number(this.statusCode);
        if (!(status >= 200 && status <= 599 && status % 1 === 0))
          throw new RangeError(`statusCode is ${show(this.statusCode)}; whole numbers from 200 to 599 are possible`);
        add(chunk);
        ended = true;
        call.ended = true;
        const mixed = parts.some((part) => typeof part !== 'string');
        const body = mixed ? parts.map((part) => encoders.base64(asBytes(part))) : [wellFormed(parts.join(''))];
        out.reply = { status, headers: fields, body, base64: mixed };
      },
      writeMimeFile: later('response.writeMimeFile'),
    };
  }

  function begin(event) {
    seed = event.seed;
    call = { ended: false };
    const context = {
      env: event.env,
      info: event.info,
      storage,
      http,
      edge: {
        decryptEncryptedNodesJson: later('context.edge.decryptEncryptedNodesJson'),
        requestBep: later('context.edge.requestBep'),
      },
      dispatchWebSocketEvent: later('context.dispatchWebSocketEvent'),
    };
    const request = assign({ handleFormRequest: later('request.handleFormRequest') }, event.request);
    const handler = mimikModule.exports;
    if (typeof handler !== 'function')
      throw new TypeError('the service exports no function: write `mimikModule.exports = function (context, request, response) {…}`');
    const result = handler(context, request, makeResponse());
    if (result && typeof result.then === 'function') result.then(undefined, threw);
  }

  function settle(event) {
    const done = asks.get(event.token);
    if (asks.delete(event.token)) done(event);
  }

  const mimikModule = { exports: {} };
  assign(globalThis, {
    global: globalThis,
    mimikModule,
    console,
    Duktape,
    TextEncoder,
    TextDecoder,
    setImmediate,
    clearImmediate,
    setTimeout,
    setInterval,
    clearTimeout,
    clearInterval: clearTimeout,
    fetch,
  });

  return function turn(text) {
    const event = parse(text);
    now = event.now;
    if (event.kind === 'begin') guarded(() => begin(event));
    else if (event.kind === 'answer') guarded(() => settle(event));
    else if (event.kind === 'run') runDue();
    let wake = -1;
    for (const each of timers.values()) if (wake < 0 || each.at < wake) wake = each.at;
    const sent = stringify({ ...out, immediates: immediates.size, waiting: asks.size, wake_ms: wake });
    emptyOutbox();
    return sent;
  };
})();
