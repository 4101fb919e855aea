// The console. Keys and values get into the document as text alone.

const STEP = 1000;
const STEP_REQUESTS = 8;
const SHOWN_BYTES = 1 << 20;
const HEX_BYTES = 1024;
const FORMATTED_CHARS = 1 << 16;
const SHOWN_LINES = 20_000;
const UNDO_MS = 10_000;
const SILENCE_MS = 40_000;
const LONG_MS = 600_000;
const STEADY_MS = 3000;
const POINTS = 60;
const TEXT = 'text/plain; charset=utf-8';

const { assign, entries, fromEntries } = Object;

const ui = fromEntries([...document.querySelectorAll('[id]')].map((element) => [element.id, element]));

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const ignore = () => {};

function debounce(action, ms, timer) {
	return () => {
		clearTimeout(timer);
		timer = setTimeout(action, ms);
	};
}

function tryTo(action, otherwise) {
	try { return action(); } catch { return otherwise; }
}

function make(name, properties, ...children) {
	const element = assign(document.createElement(name), properties);
	element.append(...children);
	return element;
}

const paragraph = (...text) => make('p', {}, ...text);
const block = (label, text) => make('pre', { role: 'group', tabIndex: 0, ariaLabel: label }, text);
const field = (label, properties) => make('label', {}, label, make('input', { autocomplete: 'off', ...properties }));
const typed = (label) => label.lastChild.value.trim();

function show(elements) {
	for (const [id, isShown] of entries(elements)) ui[id].hidden = !isShown;
}

function fail(text) {
	throw new Error(text);
}

const tell = (text) => { ui.status.textContent = text; };
// Whatever is not ours is of the network.
const warn = (error) => { ui.alert.textContent = error?.name === 'Error' ? error.message : error ? 'the store does not answer' : ''; };

async function attempt(action) {
	warn();
	try { await action(); } catch (error) { progress(''); warn(error); }
}

const isAsking = () => document.querySelector('dialog[open]');

// Gives the value of the closing button.
function ask(title, content, buttons) {
	const choices = entries(buttons).map(([value, label], at) => make('button', { value, formNoValidate: at > 0, className: at ? '' : 'first' }, label));
	const form = make('form', { method: 'dialog' }, make('h2', {}, title), ...content, make('div', {}, ...choices));
	const dialog = make('dialog', { ariaLabel: title }, form);
	document.body.append(dialog);
	dialog.showModal();
	return new Promise((done) => {
		dialog.onclose = () => { dialog.remove(); done(dialog.returnValue); };
	});
}

// Calls:

// The page's address without credentials.
const base = location.origin + location.pathname.replace(/\/?$/, '/');
let token = sessionStorage.getItem(base);
let rights = { mayWrite: false, prefixes: [] };
// After a 401 nobody is asked until there is another token.
let isShutOut = false;

const isGranted = (text) => !rights.prefixes.length || rights.prefixes.some((prefix) => text.startsWith(prefix));
const may = (text) => rights.mayWrite && isGranted(text);
const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

const encode = (text) => encodeURIComponent(text.toWellFormed())
	.replace(/%(2F|3A|40|2C|3D)/g, decodeURIComponent);
const decode = (text) => tryTo(() => decodeURIComponent(text), text);

function address(path, prefix, ...parameters) {
	const query = [prefix && `prefix=${encode(prefix)}`, ...parameters].filter(Boolean).join('&');
	return query ? `${path}?${query}` : path;
}

const list = (...query) => address('kv', ...query);

// A browser would resolve dots between slashes.
const pathOf = (key) => `kv/${/(^|\/)\.\.?(\/|$)/.test(key) ? encode(key).replaceAll('/', '%2F') : encode(key)}`;
const isUnreachable = (key) => /^\.\.?$/.test(key);

function refused(status, text, etag) {
	const texts = { 401: `this store ${token ? 'does not know the' : 'asks for a'} token`, 403: `${text}: use another token, or ask who runs the store` };
	// A proxy's text is a page.
	return assign(new Error(texts[status] ?? (/^[^<]/.test(text) ? text : `the store answers ${status}`)), { status, etag });
}

// The response of a success, or of a status taken as one. It breaks off after silence.
async function send(method, path, { headers, takes, patience = SILENCE_MS, signals = [], body, onPart = ignore } = {}) {
	const sent = token;
	const call = new AbortController();
	const putOff = debounce(() => call.abort(), patience);
	putOff();
	const raw = await fetch(base + path, { method, body, headers: { ...authorization(), ...headers }, cache: 'no-store', credentials: 'omit', signal: AbortSignal.any([call.signal, ...signals]) });
	const heard = new TransformStream({ transform(part, to) { putOff(); onPart(part); to.enqueue(part); } });
	const response = raw.status === 204 ? raw : new Response(raw.body?.pipeThrough(heard), raw);
	if (response.ok || response.status === takes) return response;
	const error = refused(response.status, (await response.text()).trim());
	if (error.status === 401 && sent === token && !isShutOut) {
		isShutOut = true;
		showRights('ro');
		askForToken(error.message);
	}
	throw error;
}

const answer = async (...call) => (await (await send(...call)).text()).trim();

function sendTo(key, method, parameter, options) {
	if (isUnreachable(key)) fail('no browser can name this key: use curl');
	return send(method, address(pathOf(key), '', parameter), options);
}

async function askForToken(text) {
	if (isAsking()) return;
	const input = field('Token', { type: 'password', required: true, pattern: '\\s*[!-~]+\\s*', title: 'visible ASCII' });
	if (!await ask('Token', [paragraph(text, '. It is kept until this tab is closed.'), input], { use: 'Use token', '': 'Cancel' })) return;
	token = typed(input);
	sessionStorage.setItem(base, token);
	start();
}

function showRights(text) {
	const [right, ...prefixes] = text.split(' ');
	rights = { mayWrite: right === 'rw', prefixes: prefixes.map(decode) };
	if (entry) showEntry(false);
	refresh();
}

// The tree:

// Keys are sorted by their bytes.
const orderOf = (text) => String.fromCharCode(...new TextEncoder().encode(text));

// A key up to its first separator behind a prefix.
const fold = (key, prefix) => prefix + key.slice(prefix.length).match(/^[^/:]*[/:]?/)[0];

// The loaded keys with a prefix, folded.
class Level {
	byText = new Map();
	next = { delimiter: '/', after: '' };

	// It stands for its rows that are not loaded.
	constructor(prefix, depth = 1) {
		assign(this, { prefix, depth, base: prefix.search(/[^/:]*$/), level: this, isMore: true, name: 'Show more' });
	}

	get rows() {
		this.sorted ??= [...this.byText.values()].sort((one, other) => (one.order < other.order ? -1 : 1))
			.map((row, at) => assign(row, { position: at + 1 }));
		return this.sorted;
	}

	// All up to here are loaded.
	get end() { return this.next ? orderOf(this.next.after) : '\uffff'; }

	folds(text) { return text.length > this.prefix.length && /[/:]$/.test(text); }

	add(text, isFolder = this.folds(text)) {
		if (this.byText.has(text)) return;
		const name = text.slice(this.base) || text.match(/[^/:]*.$/s)[0];
		this.byText.set(text, { text, isFolder, level: this, name, order: orderOf(text) });
		this.sorted = null;
	}

	remove({ text }) {
		this.byText.delete(text);
		this.sorted = null;
	}

	// A page that ends inside a fold is followed by one of its separator.
	async more() {
		if (this.isLoading) return;
		this.isLoading = true;
		try {
			const wanted = this.byText.size + STEP;
			for (let requests = 0; this.next && this.byText.size < wanted && requests < STEP_REQUESTS; requests++) {
				const { delimiter, after } = this.next;
				const response = await send('GET', list(this.prefix, `delimiter=${delimiter}`, `limit=${wanted - this.byText.size}`, after && `after=${encode(after)}`));
				revision ??= response.headers.get('Revision');
				const keys = (await response.text()).split('\n').slice(0, -1).map(decode);
				for (const key of keys) this.add(fold(key, this.prefix));
				const last = response.headers.has('Link') && fold(keys.at(-1), this.prefix);
				this.next = last && { delimiter: this.folds(last) ? last.at(-1) : delimiter, after: last };
			}
		} finally {
			this.isLoading = false;
		}
	}
}

let filter = '';
let root = new Level('');
// Open rows, and a level behind its loaded rows if it has more.
let lines = [];
let active = null;
let isToReveal = false;
let drawn = new Map();
let rowNumber = 0;
const rowHeight = matchMedia('(pointer: coarse)').matches ? 40 : 24;
let frame = 0;

function lineUp(level) {
	const { rows, end } = level;
	const more = level.next && end && !level.isLoading ? [level] : [];
	return rows.toSpliced(rows.findLastIndex(({ order }) => order <= end) + 1, 0, ...more)
		.flatMap((line) => (line.isOpen ? [line, ...lineUp(line.children)] : line));
}

function refresh() {
	lines = lineUp(root);
	if (!lines.includes(active)) active = active && lines.find(({ text }) => text === active.text);
	ui.none.textContent = lines.length || root.next ? '' : 'No keys.';
	ui.tree.style.height = `${lines.length * rowHeight}px`;
	const prefix = currentPrefix();
	ui.prefixName.textContent = prefix;
	const mayWrite = may(prefix);
	show({ token: token || isShutOut, new: rights.mayWrite, upload: mayWrite, import: mayWrite, export: isGranted(prefix), deletePrefix: prefix && mayWrite });
	if (!entry) showStart();
	draw();
}

function draw() {
	cancelAnimationFrame(frame);
	frame = requestAnimationFrame(() => {
		const first = Math.max(0, Math.floor(ui.rows.scrollTop / rowHeight) - 8);
		const shown = lines.slice(first, first + Math.ceil(ui.rows.clientHeight / rowHeight) + 16);
		drawn = new Map(shown.map((line) => [line, drawn.get(line) ?? elementOf(line)]));
		const elements = shown.map((line, at) => {
			const { level, position, isFolder, isOpen = false, text } = line;
			const element = drawn.get(line);
			assign(element, { ariaPosInSet: position, ariaSetSize: level.next ? -1 : level.rows.length, ariaSelected: !isFolder && text === entry?.key });
			if (isFolder) element.ariaExpanded = isOpen;
			element.style.top = `${(first + at) * rowHeight}px`;
			element.classList.toggle('active', line === active);
			return element;
		});
		const { children } = ui.tree;
		if (elements.length !== children.length || elements.some((element, at) => element !== children[at])) ui.tree.replaceChildren(...elements);
		ui.tree.setAttribute('aria-activedescendant', drawn.get(active)?.id ?? '');
	});
}

function elementOf({ name, text, level, isMore }) {
	const label = make('bdi', {}, name.replace(/[\0-\x1f\x7f]/g, encodeURIComponent));
	const element = make('div', { role: 'treeitem', className: isMore ? 'row more' : 'row', id: `row-${++rowNumber}`, title: text ?? '', ariaLevel: level.depth }, label);
	assign(element.style, { height: `${rowHeight}px`, paddingLeft: `${2 + level.depth * 14}px` });
	return element;
}

const loadMore = (level) => attempt(async () => {
	const loading = level.more();
	refresh();
	await loading.finally(refresh);
});

function setOpen(row, isOpen) {
	row.isOpen = isOpen;
	isToReveal &&= isOpen;
	if (row.children) return refresh();
	row.children = new Level(row.text, row.level.depth + 1);
	return loadMore(row.children);
}

function activate(row) {
	if (row.isMore) return loadMore(row);
	active = row;
	if (row.isFolder) setOpen(row, !row.isOpen); else open(row.text);
	refresh();
}

function move(at) {
	const place = Math.max(0, Math.min(at, lines.length - 1));
	const line = lines[place];
	if (!line) return;
	if (line.isMore) return loadMore(line);
	active = line;
	const { scrollTop, clientHeight } = ui.rows;
	ui.rows.scrollTop = Math.min(place * rowHeight, Math.max(scrollTop, (place + 1) * rowHeight - clientHeight));
	refresh();
}

const isModified = (event) => event.ctrlKey || event.metaKey || event.altKey;

function onTreeKey(event) {
	const at = lines.indexOf(active);
	const moves = {
		ArrowDown: () => move(at + 1),
		ArrowUp: () => move(at - 1),
		Home: () => move(0),
		End: () => move(lines.findLastIndex((line) => !line.isMore)),
		ArrowRight: () => active?.isFolder && (active.isOpen ? move(at + 1) : setOpen(active, true)),
		ArrowLeft: () => (active?.isOpen ? setOpen(active, false) : move(lines.findIndex((line) => active && line.children === active.level))),
		Enter: () => active && activate(active),
	};
	const action = moves[event.key === ' ' ? 'Enter' : event.key];
	if (!action || isModified(event)) return;
	event.preventDefault();
	action();
}

const currentPrefix = () => (active?.isFolder ? active.text : active?.level.prefix ?? filter);

// Opens what was open, and is yet.
async function reload() {
	const level = new Level(filter);
	if (!isGranted(filter)) {
		level.next = null;
		for (const prefix of rights.prefixes) if (prefix.startsWith(filter)) level.add(prefix, true);
	}
	const again = async (now, old) => {
		do await now.more(); while (now.end < old.end && now.byText.size < old.byText.size);
		for (const { text, children } of old.rows.filter((row) => row.isOpen).slice(0, 100)) {
			const row = now.byText.get(text);
			if (row) await again(assign(row, { isOpen: true, children: new Level(text, now.depth + 1) }).children, children);
		}
	};
	const keep = (now, old) => old.rows.forEach(({ text, isOpen, children }) => {
		const row = now.byText.get(text);
		if (!row?.isOpen) return;
		row.isOpen = isOpen;
		keep(row.children, children);
	});
	const isSame = root.prefix === filter;
	await again(level, isSame ? root : level);
	if (level.prefix !== filter) return;
	if (isSame) keep(level, root);
	root = level;
	isToReveal ||= active?.text === entry?.key;
	if (!isSame) {
		active = null;
		ui.rows.scrollTop = 0;
	}
	refresh();
	await reveal();
}

// The rows on a key's way; the level without the next.
function pathTo(key) {
	const path = [];
	for (let level = root; level && key.startsWith(level.prefix); level = path.at(-1).children) {
		const row = level.byText.get(fold(key, level.prefix)) ?? (isGranted(level.prefix) ? null : level.rows.find(({ text }) => key.startsWith(text)));
		if (!row) return { path, level };
		path.push(row);
	}
	return { path };
}

// Opens the folders of the open key, and marks it.
async function reveal() {
	for (let depth = 0; isToReveal && entry?.etag && depth < 20; depth++) {
		const { key } = entry;
		const { path, level } = pathTo(key);
		const row = path.pop();
		for (const folder of path) folder.isOpen = true;
		if (level) {
			if (!level.end) return;
			level.add(fold(key, level.prefix));
		} else if (row?.isFolder) await setOpen(row, true);
		else {
			isToReveal = false;
			refresh();
			if (row) move(lines.indexOf(row));
		}
	}
}

function addToTree(key) {
	const { level } = pathTo(key);
	const text = level && fold(key, level.prefix);
	if (level && orderOf(text) <= level.end) level.add(text);
}

// Folders that may have lost their last key.
const doubtful = new Set();

function removeFromTree(key) {
	const { path, level } = pathTo(key);
	const row = path.pop();
	if (level || !row) return;
	if (row.isFolder) { doubtful.add(row); return; }
	row.level.remove(row);
	for (const folder of path.reverse()) {
		if (folder.children.byText.size || folder.children.next) return;
		folder.level.remove(folder);
	}
}

async function settleDoubts() {
	for (const row of doubtful) {
		doubtful.delete(row);
		if (!await answer('GET', list(row.text, 'limit=1'))) row.level.remove(row);
	}
	refresh();
}

// The entry:

let entry = null;
let readings = 0;

const isJson = (type) => /^[^;]*[/+]json *(;|$)/i.test(type);
// A text without a type may be JSON.
const isParsed = (type, text) => (isJson(type) || !type || type === TEXT) && /^\s*[[{]/.test(text) && tryTo(() => [JSON.parse(text)]);
const textOf = (bytes) => tryTo(() => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), null);

// None for the type that such bytes have anyway.
const typeField = (type, bytes) => (!type || type === (textOf(bytes) === null ? 'application/octet-stream' : TEXT) ? {} : { 'Content-Type': type });

const expiryOf = ({ headers }) => (headers.has('TTL') ? Date.now() + headers.get('TTL') * 1000 : undefined);

async function read(key) {
	const response = await sendTo(key, 'GET', '', { headers: { Range: `bytes=0-${SHOWN_BYTES - 1}` }, takes: 404 });
	if (response.status === 404) return { key, isMissing: true };
	const { headers } = response;
	const seen = { key, etag: headers.get('ETag'), type: headers.get('Content-Type'), expiry: expiryOf(response) };
	const size = Number(headers.get('Content-Range')?.split('/')[1]);
	if (size > SHOWN_BYTES) {
		await response.body.cancel();
		return { ...seen, size };
	}
	const bytes = new Uint8Array(await response.arrayBuffer());
	const text = textOf(bytes);
	return { ...seen, bytes, size: bytes.length, text: text?.includes('\0') ? null : text };
}

// JSON, a member a line, tokens as they are.
function format(json) {
	let depth = 0;
	const line = (by) => `\n${'  '.repeat(Math.min(depth += by, 40))}`;
	return json.replace(/("[^"\\]*(?:\\.[^"\\]*)*")|([[{])\s*([\]}])?|[\]},:]|\s+/g, (part, string, start, end) => {
		if (string || end) return string ?? start + end;
		if (start) return start + line(1);
		if (/[\]}]/.test(part)) return line(-1) + part;
		return { ',': `,${line(0)}`, ':': ': ' }[part] ?? '';
	});
}

function hexOf(bytes) {
	let text = '';
	for (let at = 0; at < Math.min(bytes.length, HEX_BYTES); at += 16) {
		const row = [...bytes.subarray(at, at + 16)];
		const digits = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
		text += `${at.toString(16).padStart(4, '0')}  ${digits.padEnd(47)}  ${String.fromCharCode(...row).replace(/[^ -~]/g, '.')}\n`;
	}
	return text + (bytes.length > HEX_BYTES ? '...' : '');
}

function sizeText(bytes) {
	const power = Math.floor(Math.log2(bytes || 1) / 10);
	return power ? `${(bytes / 1024 ** power).toFixed(1)} ${'KMGT'[power - 1]}iB` : `${bytes} B`;
}

function ttlText(seconds) {
	const [days, hours, minutes] = [86_400, 3600, 60].map((unit) => Math.floor(seconds / unit));
	if (hours < 1) return `${seconds} s`;
	return hours < 48 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
}

function open(key) {
	const hash = `#/kv/${encode(key)}`;
	if (location.hash === hash) route(); else location.hash = hash;
}

// Too long to be drawn or edited.
const isLong = (text) => text.split(/\r\n?|\n/, SHOWN_LINES + 1).length > SHOWN_LINES;
const startOf = (text) => (isLong(text) ? text.split('\n', SHOWN_LINES).join('\n') : text);

function load(key) {
	entry = { key, isMissing: true, isLoading: true };
	if (drafts.has(key)) return edit(drafts.get(key));
	showEntry();
	return readAgain();
}

async function readAgain() {
	if (!entry) return;
	const { key } = entry;
	const reading = ++readings;
	const seen = await read(key);
	if (entry?.key !== key || reading !== readings) return;
	const draft = drafts.get(key);
	if (draft) {
		if (seen.etag !== draft.etag) tell('somebody else has changed this key');
		else if (draft.etag) draft.type = seen.type;
		return showCommand();
	}
	const isSame = seen.etag && seen.etag === entry.etag && seen.type === entry.type;
	entry = seen;
	showEntry(!isSame);
	await reveal();
}

// Only another value is drawn.
function showEntry(isChanged = true) {
	const { key, isMissing, isLoading, text } = entry;
	const draft = drafts.get(key);
	const mayWrite = may(key);
	const isCounter = /^-?\d{1,19}$/.test(text);
	document.body.className = 'open';
	document.title = `${key} - Little Key-Value Store`;
	ui.title.textContent = key;
	show({
		facts: !isMissing, actions: !isMissing && !draft, value: !draft, editor: draft,
		edit: mayWrite && typeof text === 'string' && !isLong(text) && !(isMixed(text) && text.includes(SIGN)), delete: mayWrite, changeTtl: mayWrite, add: mayWrite && isCounter, subtract: mayWrite && isCounter,
	});
	assign(ui.download, { href: base + pathOf(key), download: key.match(/[^/]*\/*$/)[0] });
	ui.back.href = `#/?prefix=${encode(filter)}`;
	showFacts();
	showCommand();
	if (isChanged) ui.value.replaceChildren(...(isMissing ? [paragraph(isLoading ? '' : 'key not found')] : views()));
	draw();
}

function views() {
	const { key, text, type, bytes } = entry;
	if (!bytes) return [paragraph('Values over 1 MiB are not shown: download it.')];
	const isText = text !== null;
	const source = isText ? textViews(type, text) : [block('Hex', hexOf(bytes))];
	// Bytes without a type may be a picture too.
	const image = type.startsWith('image/') ? type : !isText && 'image/png';
	if (!image) return source;
	const src = URL.createObjectURL(new Blob([bytes], { type: image }));
	const picture = make('img', { alt: key, src });
	picture.onload = () => URL.revokeObjectURL(src);
	picture.onerror = () => picture.replaceWith(...(isText ? [] : source));
	return isText ? [picture, ...source] : [picture];
}

function textViews(type, text) {
	const formatted = text.length < FORMATTED_CHARS && isParsed(type, text) ? format(text) : text;
	const view = make('pre', {}, isLong(formatted) ? startOf(text) : formatted);
	return isLong(text) ? [view, paragraph('The rest is in the download.')] : [view];
}

function showFacts() {
	if (!entry || entry.isMissing) return;
	const { type, size, expiry, etag } = entry;
	const left = Math.ceil((expiry - Date.now()) / 1000);
	const ttl = expiry ? ttlText(Math.max(0, left)) : 'none';
	if (left < 0 && !entry.isOver) {
		entry.isOver = true;
		readAgain().catch(ignore);
	}
	for (const [id, text] of entries({ type, size: sizeText(size), ttl, etag })) if (ui[id].textContent !== text) ui[id].textContent = text;
}

function showStart() {
	document.body.className = '';
	document.title = 'Little Key-Value Store';
	ui.title.textContent = currentPrefix() || 'All keys';
	show({ facts: false, actions: false, editor: false, value: true });
	ui.value.replaceChildren(paragraph('Open a key', may(currentPrefix()) ? ', or drop files here.' : '.'));
	showCommand();
}

function showCommand() {
	const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
	const draft = entry && drafts.get(entry.key);
	const path = entry ? address(pathOf(entry.key).replace(/\/$/, '%2F'), '', draft?.etag && 'ttl=keep') : list(currentPrefix());
	const words = ['curl', token && '--oauth2-bearer "$LKV_TOKEN"', isUnreachable(entry?.key) && '--path-as-is',
		draft && `-T FILE -H ${quote(draft.etag ? `If-Match: ${draft.etag}` : 'If-None-Match: *')}`, draft?.type && `-H ${quote(`Content-Type: ${draft.type}`)}`, quote(base + path)];
	show({ curl: entry || isGranted(currentPrefix()) });
	ui.command.textContent = words.filter(Boolean).join(' ');
}

// Without TLS a page has no other clipboard.
function copyCommand() {
	getSelection().selectAllChildren(ui.command);
	if (!document.execCommand('copy')) fail('the browser copies nothing here');
	tell('copied');
}

// Writing:

// By key: the entry as read, and the text typed.
const drafts = new Map();

function edit(draft = { etag: entry.etag, type: entry.type, original: entry.text }) {
	drafts.set(entry.key, draft);
	const { typed, original, isSaving } = draft;
	assign(ui.text, { value: typed ?? (isMixed(original) ? original.replaceAll('\r', SIGN) : original), readOnly: isSaving });
	showEntry(false);
	ui.text.focus();
	ui.text.setSelectionRange(0, 0);
}

function stopEditing(key) {
	drafts.delete(key);
	if (entry?.key === key) return load(key);
}

// A text field knows one kind of line end: of a mixture others get signs.
const SIGN = '\u240d';
const isMixed = (text) => text.includes('\r') && /\r(?!\n)|(?<!\r)\n/.test(text);

function withLineEnds(original, text) {
	if (isMixed(original)) return text.replaceAll(SIGN, '\r');
	return original.includes('\r') ? text.replaceAll('\n', '\r\n') : text;
}

async function save() {
	const { key } = entry;
	const draft = drafts.get(key);
	if (!draft || draft.isSaving) return;
	const { original } = draft;
	const text = withLineEnds(original, ui.text.value);
	if (!text) fail('Not saved: value cannot be empty');
	draft.isSaving = ui.text.readOnly = true;
	try {
		// An ETag is not of the type.
		const headers = draft.etag && (await sendTo(key, 'HEAD', '', { takes: 404 })).headers;
		if (headers?.get('ETag') === draft.etag) draft.type = headers?.get('Content-Type') ?? draft.type;
		try { if (isJson(draft.type) || isParsed(draft.type, original)) JSON.parse(text); } catch ({ message }) { fail(`Not saved: ${message}`); }
		let choice = 'mine';
		while (choice === 'mine' && !await put(key, draft, new TextEncoder().encode(text))) {
			const theirs = await read(key);
			// The answer to an earlier call was lost.
			if (theirs.text === text) break;
			const version = theirs.isMissing ? 'deleted' : theirs.text ?? `${sizeText(theirs.size)} of ${theirs.type}`;
			const versions = entries({ Theirs: version, Mine: text }).map(([name, one]) => make('section', {}, make('h3', {}, name), block(name, startOf(one))));
			choice = await ask('Changed by somebody else', versions, { '': 'Go on editing', theirs: 'Keep theirs', mine: 'Keep mine' });
			draft.etag = theirs.etag;
		}
		if (!choice) return;
		tell(choice === 'mine' ? 'saved' : 'theirs is kept');
		if (choice === 'mine') changed(key, 'put');
		await stopEditing(key);
		ui.edit.focus();
	} finally {
		draft.isSaving = false;
		if (entry?.key === key) ui.text.readOnly = false;
	}
}

// False: the entry is not the one read.
async function put(key, { etag, type }, body, ttl = etag && 'ttl=keep') {
	const headers = { ...(etag ? { 'If-Match': etag } : { 'If-None-Match': '*' }), ...typeField(type, body) };
	return (await sendTo(key, 'PUT', ttl, { headers, body, takes: 412 })).ok;
}

async function create() {
	const [name, type] = [field('Key', { required: true, value: currentPrefix() }), field('Type', { placeholder: 'text/plain' })];
	if (!await ask('New key', [name, type], { create: 'Create', '': 'Cancel' })) return;
	const key = name.lastChild.value.toWellFormed();
	if (!drafts.has(key)) drafts.set(key, { type: typed(type), original: '' });
	open(key);
}

async function changeTtl() {
	const { key, expiry } = entry;
	const input = field('TTL', { required: true, placeholder: '90s, 5m, 2h, 7d' });
	const choice = await ask('Change TTL', [input], { set: 'Set TTL', ...(expiry && { none: 'Remove TTL' }), '': 'Cancel' });
	if (choice) await post(key, `ttl=${choice === 'none' ? choice : encode(typed(input))}`);
}

async function post(key, change) {
	await sendTo(key, 'POST', change);
	tell('saved');
	await changed(key, 'put');
}

const deletions = new Set();

async function remove() {
	const { key, etag } = entry;
	const response = await sendTo(key, 'DELETE', 'return', { headers: { 'If-Match': etag }, takes: 412 });
	if (!response.ok) {
		readAgain().catch(ignore);
		fail('Not deleted: somebody else has changed it.');
	}
	offerUndo({ key, type: response.headers.get('Content-Type'), expiry: expiryOf(response), bytes: new Uint8Array(await response.arrayBuffer()) });
	tell('deleted');
	await changed(key, 'delete');
}

function offerUndo(deletion) {
	deletions.add(deletion);
	show({ undo: true });
	setTimeout(forget, UNDO_MS, deletion);
}

function forget(deletion) {
	deletions.delete(deletion);
	show({ undo: deletions.size });
}

async function undo() {
	const deletion = [...deletions].at(-1);
	const { key, bytes, type, expiry } = deletion;
	forget(deletion);
	const left = expiry && expiry - Date.now();
	if (left < 1) fail('Not restored: it has expired.');
	try {
		if (!await put(key, { type }, bytes, left && `ttl=${left}ms`)) fail('Not restored: somebody else has stored it.');
	} catch (error) {
		offerUndo({ ...deletion });
		throw error;
	}
	tell('restored');
	changed(key, 'put');
	open(key);
}

async function removePrefix() {
	const prefix = currentPrefix();
	const count = await answer('GET', list(prefix, 'count'));
	const input = field('Number of keys', { inputMode: 'numeric', required: true, pattern: count });
	const note = paragraph(make('code', {}, prefix), `\nKeys that begin so: ${count}. Type the number to delete them for good.`);
	if (!await ask('Delete prefix', [note, input], { delete: 'Delete keys', '': 'Cancel' })) return;
	tell(`deleted ${await answer('DELETE', list(prefix), { patience: LONG_MS })}`);
	await reload();
	await readAgain();
}

// Files:

function progress(text, part) {
	tell(text);
	show({ progress: part !== undefined });
	ui.progress.value = part ?? 0;
}

// `fetch` tells no progress.
const upload = (method, path, headers, file, onProgress) => new Promise((done, reject) => {
	const request = new XMLHttpRequest();
	const putOff = debounce(() => request.abort(), LONG_MS);
	putOff();
	request.open(method, base + path);
	for (const field of entries({ ...authorization(), ...headers })) request.setRequestHeader(...field);
	request.upload.onprogress = ({ loaded }) => { putOff(); onProgress(loaded); };
	request.onerror = request.onabort = () => reject(new Error('the store has broken off'));
	request.onload = () => {
		const { status } = request;
		const text = request.responseText.trim();
		if (status < 300) done(text); else reject(refused(status, text, request.getResponseHeader('ETag')));
	};
	// Without the type that the browser adds.
	request.send(new Blob([file]));
});

// The dropped files, each with its path.
async function filesOf({ items }) {
	const call = (object, method) => new Promise((...ends) => object[method](...ends));
	const walk = async (item) => {
		if (item.isFile) return [[item.fullPath.slice(1), await call(item, 'file')]];
		const [reader, found] = [item.createReader(), []];
		for (let some; (some = await call(reader, 'readEntries')).length;) found.push(...await Promise.all(some.map(walk)));
		return found.flat();
	};
	return (await Promise.all([...items].map((item) => item.webkitGetAsEntry()).filter(Boolean).map(walk))).flat();
}

async function uploadFiles(dropped, prefix = currentPrefix()) {
	const files = await dropped;
	const total = files.reduce((sum, [, file]) => sum + file.size, 0) || 1;
	const [there, failures] = [[], []];
	let [stored, sent] = [0, 0];
	const store = async (key, file, condition) => {
		const headers = { ...condition, ...(file.type && { 'Content-Type': file.type }) };
		try {
			await upload('PUT', pathOf(key), headers, file, (loaded) => progress(`uploading ${stored + 1} of ${files.length}`, (sent + loaded) / total));
			stored++;
		} catch (error) {
			if (error.status === 412 && !condition['If-Match']) there.push([key, file, error.etag]); else failures.push(`${key}: ${error.message}`);
		}
		sent += file.size;
	};
	for (const [path, file] of files) await store(prefix + path, file, { 'If-None-Match': '*' });
	if (there.length) {
		const keys = there.map(([key]) => key).join('\n');
		const isToReplace = await ask('Already there', [block('Keys', keys)], { replace: 'Replace', '': 'Keep' });
		if (!isToReplace) failures.push(`there already: ${keys}`);
		else for (const [key, file, etag] of there) await store(key, file, { 'If-Match': etag });
	}
	progress(`uploaded ${stored} of ${files.length}`);
	if (failures.length) fail(`Not uploaded:\n${failures.join('\n')}`);
}

async function importFile(file) {
	const note = paragraph(`The keys in ${file.name} replace those that are there.`);
	if (!await ask('Import', [note], { import: 'Import keys', '': 'Cancel' })) return;
	const count = await upload('POST', 'import', {}, file, (loaded) => progress('importing', loaded / file.size));
	progress(`imported ${count}`);
	await reload();
}

function keep(blob, name) {
	const href = URL.createObjectURL(blob);
	make('a', { href, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

async function exportFile() {
	const prefix = currentPrefix();
	const total = await answer('GET', list(prefix, 'count'));
	let keys = 0;
	const onPart = (part) => {
		for (let at = -1; (at = part.indexOf(10, at + 1)) >= 0;) keys++;
		progress(`exporting ${keys} of ${total}`, Math.min(1, keys / total));
	};
	keep(await (await send('GET', list(prefix, 'values'), { onPart })).blob(), 'keys.ndjson');
	progress(`exported ${keys}`);
}

function download(event) {
	if (!token) return;
	event.preventDefault();
	attempt(async () => keep(await (await sendTo(entry.key, 'GET')).blob(), ui.download.download));
}

// Changes by others:

// Of the first list.
let revision = null;
let starts = 0;
let pending = new Map();
let isApplying = false;

const connect = (state) => assign(ui.connection, { textContent: state, className: state });

function changed(key, event) {
	pending.set(key, event);
	return applyChanges();
}

async function applyChanges() {
	if (isApplying) return;
	isApplying = true;
	while (pending.size) {
		const changes = pending;
		pending = new Map();
		for (const [key, event] of changes) (event === 'put' ? addToTree : removeFromTree)(key);
		refresh();
		if (changes.has(entry?.key) && !drafts.get(entry.key)?.isSaving) await readAgain().catch(() => setTimeout(attempt, 2000, readAgain));
		if (doubtful.size) await settleDoubts().catch(ignore);
		await sleep(200);
	}
	isApplying = false;
}

// Until the stream ends, or changes are unknown.
async function watch(prefix, sinces, signal, wait) {
	const since = sinces.get(prefix);
	const response = await send('GET', address('watch', prefix, since && `since=${since}`, wait), { signals: [signal] });
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	for (let rest = ''; ;) {
		const { value, done } = await reader.read();
		if (done) return;
		const told = (rest + value).split('\n');
		rest = told.pop();
		for (const line of told) {
			const [event, id, key] = line.split(' ');
			if (event === 'reset') {
				pending.clear();
				return sinces.clear();
			}
			sinces.set(prefix, id);
			if (event === 'ready') connect('live'); else pending.set(decode(key), event);
		}
		applyChanges();
	}
}

// Across breaks, until the page starts over.
async function live(start) {
	const sinces = new Map();
	let known = null;
	for (let delay = 250; start === starts; delay = Math.min(delay * 2, 4000)) {
		while (document.hidden) await sleep(200);
		const stream = new AbortController();
		const begin = Date.now();
		const isInFront = document.hasFocus();
		const isMoved = () => document.hidden || document.hasFocus() !== isInFront;
		const guard = setInterval(() => { if (start !== starts || isMoved()) stream.abort(); }, 250);
		try {
			showRights((await send('OPTIONS', 'kv')).headers.get('Token-Rights') ?? 'rw');
			const { prefixes } = rights;
			if (known !== `${prefixes}`) sinces.clear();
			if (known === null) route();
			known = `${prefixes}`;
			if (!sinces.size) {
				revision = null;
				await reload();
				for (const prefix of prefixes.length ? prefixes : ['']) sinces.set(prefix, revision);
			}
			await readAgain().catch(ignore);
			await follow(sinces, stream.signal, isInFront);
		} catch (error) {
			const { status } = error;
			if (/^(4(?!08|29)|501)/.test(status)) {
				connect('not live');
				return status === 501 || warn(error);
			}
		} finally {
			clearInterval(guard);
			stream.abort();
		}
		if (start !== starts) return;
		if (isMoved() || Date.now() - begin > STEADY_MS) delay = 125;
		if (!isMoved()) connect('reconnecting');
		await sleep(delay);
	}
}

// Of six connections to a host the window in front may hold one.
async function follow(sinces, signal, isInFront) {
	const prefixes = [...sinces.keys()];
	if (isInFront && prefixes.length === 1) return watch(prefixes[0], sinces, signal);
	while (sinces.size) {
		for (const prefix of prefixes) await watch(prefix, sinces, signal, 'wait=1ms');
		await sleep(400);
	}
}

// Figures:

const points = {};
let before = {};

function chart(values) {
	const [svg, line] = ['svg', 'polyline'].map((name) => document.createElementNS('http://www.w3.org/2000/svg', name));
	const [low, high] = [Math.min(...values), Math.max(...values)];
	line.setAttribute('points', values.map((value, at) => `${at},${18 - 16 * (value - low) / (high - low || 1)}`).join(' '));
	svg.setAttribute('viewBox', `${values.length - POINTS} 0 ${POINTS} 20`);
	svg.ariaHidden = true;
	svg.append(line);
	return svg;
}

async function showFigures() {
	if (document.hidden || isShutOut) return;
	const now = { at: Date.now() };
	for (const [, name, labels = '', value] of (await answer('GET', 'metrics').catch(String)).matchAll(/^lkv_(\w+)(\{.*\})? (\S+)$/gm)) {
		if (/"\/(metrics|watch)"/.test(labels)) continue;
		const [, bound = ''] = labels.match(/le="(.*)"/) ?? [];
		now[name + bound] = (now[name + bound] ?? 0) + Number(value);
	}
	const grown = (name) => Math.max(0, now[name] - (before[name] ?? 0)) || 0;
	const rate = 1000 * grown('http_requests_total') / (grown('at') || 1);
	const times = 'http_request_duration_seconds_bucket';
	const most = 0.99 * grown(`${times}+Inf`);
	const bound = most && Object.keys(now).find((name) => name.startsWith(times) && grown(name) >= most).slice(times.length);
	const latency = bound === '+Inf' ? 10_000 : 1000 * bound;
	before = now;
	const figures = [
		['keys', now.keys, now.keys?.toLocaleString('en')], ['bytes', now.stored_bytes, sizeText(now.stored_bytes)],
		['requests a second', rate, rate.toFixed(1)], ['latency', latency, latency > 5000 ? '1% over 5 s' : latency ? `99% under ${latency} ms` : '-'],
	];
	ui.figures.replaceChildren(...figures.filter(([, value]) => value !== undefined).map(([name, value, text]) => {
		points[name] = [...points[name] ?? [], value].slice(-POINTS);
		return make('p', {}, name, make('b', {}, text), chart(points[name]));
	}));
}

// The page:

function route() {
	const { hash } = location;
	const key = hash.startsWith('#/kv/') && decode(hash.slice(5));
	readings++;
	isToReveal = active?.text !== key;
	warn();
	if (!key) {
		entry = null;
		filter = ui.filter.value = decode(hash.match(/^#\/\?prefix=(.*)/)?.[1] ?? '');
		if (root.prefix !== filter) attempt(reload);
		return refresh();
	}
	attempt(() => load(key));
}

function start() {
	isShutOut = false;
	live(++starts);
	showFigures();
}

const shortcuts = { '/': 'filter', n: 'new', e: 'edit', d: 'delete', u: 'undo', t: 'changeTtl', c: 'copy', '?': 'help' };
const KEYS = `\u2191 \u2193	Go through the keys
\u2192 \u2190	Open or close a folder
Enter	Open a key
Ctrl Enter	Save
Esc	Cancel`;

function help() {
	const lines = entries(shortcuts).map(([key, id]) => `${key}	${ui[id].textContent || 'Filter by prefix'}`);
	return ask('Keyboard', [block('Keys', [KEYS, ...lines].join('\n'))], { '': 'Close' });
}

const actions = {
	edit, delete: remove, undo, changeTtl, add: () => post(entry.key, 'incr=1'), subtract: () => post(entry.key, 'decr=1'),
	copy: copyCommand, new: create, deletePrefix: removePrefix, export: exportFile, upload: () => ui.files.click(), import: () => ui.archive.click(),
	token: () => askForToken('use another token'), help, cancel: () => stopEditing(entry.key),
};
for (const [id, action] of entries(actions)) ui[id].onclick = () => attempt(action);

document.onkeydown = (event) => {
	const element = ui[shortcuts[event.key]];
	if (!element?.checkVisibility() || event.repeat || isModified(event) || event.target.matches('input, textarea') || isAsking()) return;
	event.preventDefault();
	if (element === ui.filter) element.focus(); else element.click();
};
ui.download.onclick = download;
ui.editor.onsubmit = (event) => { event.preventDefault(); attempt(save); };
ui.text.oninput = () => { (drafts.get(entry?.key) ?? {}).typed = ui.text.value; };
ui.text.onkeydown = (event) => {
	if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) attempt(save);
	if (event.key === 'Escape') ui.cancel.click();
};
function onFiles(input, action) {
	input.onchange = () => {
		const files = [...input.files];
		input.value = '';
		attempt(() => action(files));
	};
}
onFiles(ui.files, (files) => uploadFiles(files.map((file) => [file.name, file])));
onFiles(ui.archive, ([file]) => importFile(file));
ui.tree.onkeydown = onTreeKey;
ui.tree.onfocus = () => active || ui.tree.matches(':focus-visible') && move(0);
ui.tree.onclick = ({ clientY }) => {
	const line = lines[Math.floor((clientY - ui.tree.getBoundingClientRect().top) / rowHeight)];
	if (line) activate(line);
};
ui.rows.onscroll = draw;
ui.filter.oninput = debounce(() => {
	filter = ui.filter.value.toWellFormed();
	if (!entry) history.replaceState(null, '', `#/?prefix=${encodeURIComponent(filter)}`);
	attempt(reload);
}, 100);
ondragover = (event) => event.preventDefault();
ondrop = (event) => {
	event.preventDefault();
	if (may(currentPrefix()) && !isAsking()) attempt(() => uploadFiles(filesOf(event.dataTransfer)));
};
onbeforeunload = (event) => { if (drafts.size) event.preventDefault(); };
onhashchange = route;
new ResizeObserver(refresh).observe(ui.rows);
setInterval(showFacts, 250);
setInterval(showFigures, 2000);
start();
